//! The table in a file, without a stream around it.

use super::*;
use crate::stream::table::tests::{Open, all, row, scope};

/// A table in a folder that stays as long as it does.
fn open(folder: &tempfile::TempDir) -> impl Open + use<> {
    let path = folder.path().join("answers.db");
    move |revision: &str| {
        let table: Arc<dyn Table> = Arc::new(Sqlite::open(&path, scope(revision)).unwrap());
        Box::pin(std::future::ready(table))
    }
}

#[tokio::test]
async fn it_is_a_table() {
    // Each on its own, for they write the same ids.
    for test in all() {
        let folder = tempfile::tempdir().unwrap();
        test(Arc::new(open(&folder))).await;
    }
}

#[tokio::test]
async fn answers_and_times_are_kept_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(&folder)("1").await;
    table.write(vec![row("b", "x")].into()).await.unwrap();
    let read = Connection::open(folder.path().join("answers.db")).unwrap();
    let sql = "SELECT uri || answer || status || fetched_at FROM galley_answers";
    let read: String = read.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(read, "x12345678901234567890.125ok1970-01-01T00:00:00.000Z");
}

#[test]
fn what_is_no_table_of_answers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        Sqlite::open(&folder.path().join(name), scope("1"))
            .unwrap_err()
            .to_string()
    };
    std::fs::write(folder.path().join("text"), "x".repeat(4096)).unwrap();
    assert!(open("text").contains("not a database"), "{}", open("text"));
    assert!(open("no/folder/answers.db").contains("cannot open"));
    let other = Connection::open(folder.path().join("other.db")).unwrap();
    other
        .execute_batch("CREATE TABLE galley_answers (id TEXT)")
        .unwrap();
    assert!(
        open("other.db").contains("no column"),
        "{}",
        open("other.db")
    );
}
