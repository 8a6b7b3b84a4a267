//! A list and its table, without a worker.

use super::*;
use crate::{
    metrics::Registry,
    stream::{
        row::{Row, Scope, Status},
        table::Sqlite,
    },
};

struct Rig {
    table: Arc<Sqlite>,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scope = Scope {
            recipe: "echo".into(),
            revision: "1".into(),
            worker: "test".into(),
        };
        let table = Sqlite::open(&folder.path().join("answers.db"), scope).unwrap();
        Self {
            table: Arc::new(table),
            _folder: folder,
        }
    }

    fn list(&self, lines: &'static str) -> List {
        let registry = Registry::new().unwrap();
        let tally = Arc::new(Tally::new(registry.stream("echo")));
        List::new(
            lines.as_bytes(),
            InputKind::File,
            Arc::clone(&self.table) as _,
            tally,
        )
        .unwrap()
    }

    async fn write(&self, message: &Message) {
        let row = Row {
            id: message.body.id.clone(),
            uri: message.body.payload.uri().map(Into::into),
            etag: None,
            status: Status::Ok,
            answer: None,
            error: None,
            bytes: None,
            deliveries: message.deliveries,
            published_at: None,
            fetched_at: None,
            answered_at: None,
            fetch_ms: None,
            infer_ms: None,
        };
        self.table.write(vec![row].into()).await.unwrap();
        message.receipt.ack().await.unwrap();
    }
}

async fn pull(list: &mut List) -> Vec<Message> {
    match list.pull(100).await.unwrap() {
        Pulled::Messages(messages) => messages,
        Pulled::Ended => Vec::new(),
    }
}

/// The names of their files.
fn names(messages: &[Message]) -> Vec<&str> {
    let uris = messages
        .iter()
        .filter_map(|message| message.body.payload.uri());
    uris.filter_map(|uri| uri.rsplit('/').next()).collect()
}

#[tokio::test]
async fn it_ends_when_every_line_has_its_row_and_resumes_behind_them() {
    let rig = Rig::new();
    let mut list = rig.list("a\nb\na\n");
    let messages = pull(&mut list).await;
    let expected = ["a", "b", "a"];
    assert_eq!(names(&messages)[..], expected[..messages.len()]);
    let mut all = messages;
    while all.len() < 3 {
        all.extend(pull(&mut list).await);
    }
    for message in &all {
        rig.write(message).await;
    }
    assert!(matches!(list.pull(1).await, Ok(Pulled::Ended)));
    let mut again = rig.list("a\nb\nc\n");
    let messages = pull(&mut again).await;
    assert_eq!(names(&messages), ["c"]);
    assert!(!messages[0].suspect);
}

#[tokio::test]
async fn what_is_given_back_comes_again_before_it_ends() {
    let rig = Rig::new();
    let mut list = rig.list("a\n");
    let messages = pull(&mut list).await;
    let delay = Duration::from_millis(1);
    messages[0].receipt.give_back(Some(delay)).await.unwrap();
    let messages = pull(&mut list).await;
    assert_eq!((names(&messages), messages[0].deliveries), (vec!["a"], 2));
    rig.write(&messages[0]).await;
    assert!(matches!(list.pull(1).await, Ok(Pulled::Ended)));
}

#[tokio::test]
async fn what_was_in_hand_when_a_process_died_is_suspect_until_it_has_a_row() {
    let rig = Rig::new();
    let mut dies = rig.list("a\n");
    pull(&mut dies).await;
    drop(dies);
    let mut list = rig.list("a\nb\n");
    let mut messages = pull(&mut list).await;
    while messages.len() < 2 {
        messages.extend(pull(&mut list).await);
    }
    let suspects = |messages: &[Message]| -> Vec<bool> {
        messages.iter().map(|message| message.suspect).collect()
    };
    assert_eq!(suspects(&messages), [true, false]);
    assert_eq!(messages[0].deliveries, 2);
    for message in &messages {
        message.receipt.give_back(None).await.unwrap();
    }
    list.close().await.unwrap();
    let mut list = rig.list("a\nb\n");
    let mut messages = pull(&mut list).await;
    while messages.len() < 2 {
        messages.extend(pull(&mut list).await);
    }
    assert_eq!(suspects(&messages), [true, false]);
}
