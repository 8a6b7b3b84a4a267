//! What every table promises, whatever holds it.

use std::{sync::Arc, time::SystemTime};

use futures::future::BoxFuture;

use super::Table;
use crate::stream::row::{Row, Scope, Standing, Status, Written};

/// Opens the same table once more, for a revision.
pub(super) trait Open: Fn(&str) -> BoxFuture<'static, Arc<dyn Table>> + Send + Sync {}
impl<F: Fn(&str) -> BoxFuture<'static, Arc<dyn Table>> + Send + Sync> Open for F {}

type Test = fn(Arc<dyn Open>) -> BoxFuture<'static, ()>;

/// Each wants an empty table.
pub(super) fn all() -> [Test; 6] {
    [
        |open| Box::pin(the_first_row_of_a_key_stays(open)),
        |open| Box::pin(texts_are_told_apart_by_their_digests(open)),
        |open| Box::pin(what_was_begun_is_remembered_until_it_has_a_row(open)),
        |open| Box::pin(whatever_a_message_says_can_be_written(open)),
        |open| Box::pin(many_at_once_write_each_row_once(open)),
        |open| Box::pin(nothing_asked_is_nothing_done(open)),
    ]
}

pub(super) fn scope(revision: &str) -> Scope {
    Scope {
        recipe: "echo".into(),
        revision: revision.into(),
        worker: "test".into(),
    }
}

pub(super) fn row(id: &str, uri: &str) -> Row {
    Row {
        id: id.into(),
        uri: Some(uri.into()),
        etag: None,
        status: Status::Ok,
        answer: Some("12345678901234567890.125".into()),
        error: None,
        bytes: Some(7),
        deliveries: 1,
        published_at: None,
        fetched_at: Some(SystemTime::UNIX_EPOCH),
        answered_at: None,
        fetch_ms: Some(0.5),
        infer_ms: None,
    }
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

async fn the_first_row_of_a_key_stays(open: Arc<dyn Open>) {
    let table = open("1").await;
    let write = |rows: Vec<Row>| table.write(rows.into());
    assert_eq!(
        write(vec![row("a", "x"), row("b", "x")]).await,
        Ok(vec![Written::New; 2])
    );
    // Not in the order of ids.
    assert_eq!(
        write(vec![row("b", "y"), row("a", "x"), row("Z", "x")]).await,
        Ok(vec![Written::Conflict, Written::Duplicate, Written::New])
    );
    let another = open("2").await;
    assert_eq!(
        another.write(vec![row("a", "y")].into()).await,
        Ok(vec![Written::New])
    );
}

async fn texts_are_told_apart_by_their_digests(open: Arc<dyn Open>) {
    let table = open("1").await;
    let text = |etag: &str| Row {
        uri: None,
        etag: Some(etag.into()),
        ..row("a", "")
    };
    for (etag, written) in [
        ("1", Written::New),
        ("1", Written::Duplicate),
        ("2", Written::Conflict),
    ] {
        assert_eq!(
            table.write(vec![text(etag)].into()).await,
            Ok(vec![written])
        );
    }
}

async fn what_was_begun_is_remembered_until_it_has_a_row(open: Arc<dyn Open>) {
    let table = open("1").await;
    let all = || ids(&["a", "b", "c"]);
    assert_eq!(table.look_up(all()).await, Ok(vec![Standing::New; 3]));
    assert_eq!(table.begin(ids(&["b", "a"])).await, Ok(vec![1, 1]));
    // Another process, after this one has died.
    let table = open("1").await;
    assert_eq!(table.begin(ids(&["c", "b"])).await, Ok(vec![1, 2]));
    let begun = vec![Standing::Begun(1), Standing::Begun(2), Standing::Begun(1)];
    assert_eq!(table.look_up(all()).await, Ok(begun));
    table.write(vec![row("b", "x")].into()).await.unwrap();
    table.forget(ids(&["a", "c"])).await.unwrap();
    let done = vec![Standing::New, Standing::Done, Standing::New];
    assert_eq!(table.look_up(all()).await, Ok(done));
}

async fn whatever_a_message_says_can_be_written(open: Arc<dyn Open>) {
    let table = open("1").await;
    let odd = [
        "\0",
        "a\0b",
        "'; DROP TABLE galley_answers; --",
        "\u{10ffff}",
        "{}",
        "",
    ];
    let mut odd = ids(&odd);
    odd.push("long".repeat(10_000));
    assert_eq!(table.begin(odd.clone()).await, Ok(vec![1; odd.len()]));
    let write = |id: &String| Row {
        error: Some(id.clone()),
        etag: Some(id.clone()),
        answer: serde_json::to_string(id).ok(),
        bytes: Some(u64::MAX),
        deliveries: u32::MAX,
        ..row(id, id)
    };
    let rows: Arc<[Row]> = odd.iter().map(write).collect();
    let new = vec![Written::New; odd.len()];
    assert_eq!(table.write(Arc::clone(&rows)).await, Ok(new));
    let known = vec![Written::Duplicate; odd.len()];
    assert_eq!(table.write(rows).await, Ok(known));
    let done = vec![Standing::Done; odd.len()];
    assert_eq!(table.look_up(odd).await, Ok(done));
}

async fn many_at_once_write_each_row_once(open: Arc<dyn Open>) {
    const WRITERS: usize = 4;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let table = open("1").await;
        writers.push(tokio::spawn(async move {
            let mut new = 0;
            for batch in 0..10 {
                let mut rows: Vec<Row> = (0..50)
                    .map(|place| row(&format!("{batch} {place}"), "x"))
                    .collect();
                // Each has its own order.
                rows.rotate_left(writer * 13);
                if writer % 2 == 1 {
                    rows.reverse();
                }
                let rows: Arc<[Row]> = rows.into();
                let written = loop {
                    match table.write(Arc::clone(&rows)).await {
                        Ok(written) => break written,
                        Err(super::TableError::Unavailable(_)) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                };
                let is_new = |written: &&Written| **written == Written::New;
                new += written.iter().filter(is_new).count();
                assert!(!written.contains(&Written::Conflict));
            }
            new
        }));
    }
    let mut new = 0;
    for writer in writers {
        new += writer.await.unwrap();
    }
    assert_eq!(new, 500);
}

async fn nothing_asked_is_nothing_done(open: Arc<dyn Open>) {
    let table = open("1").await;
    assert_eq!(table.look_up(Vec::new()).await, Ok(Vec::new()));
    assert_eq!(table.begin(Vec::new()).await, Ok(Vec::new()));
    assert_eq!(table.forget(Vec::new()).await, Ok(()));
    assert_eq!(table.write(Arc::new([])).await, Ok(Vec::new()));
}
