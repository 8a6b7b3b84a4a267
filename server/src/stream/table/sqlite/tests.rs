//! The table in a file, without a stream around it.

use super::*;
use crate::stream::row::Status;

fn scope(revision: &str) -> Scope {
    Scope {
        recipe: "echo".into(),
        revision: revision.into(),
        worker: "test".into(),
    }
}

fn row(id: &str, uri: &str) -> Row {
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

#[tokio::test]
async fn the_first_row_of_a_key_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.db");
    let table = Sqlite::open(&path, scope("1")).unwrap();
    let write = |rows: Vec<Row>| table.write(rows.into());
    assert_eq!(
        write(vec![row("a", "x"), row("b", "x")]).await,
        Ok(vec![Written::New; 2])
    );
    assert_eq!(
        write(vec![row("a", "x"), row("b", "y"), row("c", "x")]).await,
        Ok(vec![Written::Duplicate, Written::Conflict, Written::New])
    );
    let another = Sqlite::open(&path, scope("2")).unwrap();
    assert_eq!(
        another.write(vec![row("a", "y")].into()).await,
        Ok(vec![Written::New])
    );
    let read = Connection::open(&path).unwrap();
    let sql = "SELECT uri || answer || status || fetched_at FROM galley_answers WHERE id = 'b'";
    let read: String = read.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(read, "x12345678901234567890.125ok1970-01-01T00:00:00.000Z");
}

#[tokio::test]
async fn texts_are_told_apart_by_their_digests() {
    let folder = tempfile::tempdir().unwrap();
    let table = Sqlite::open(&folder.path().join("answers.db"), scope("1")).unwrap();
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

#[tokio::test]
async fn what_was_begun_is_remembered_until_it_has_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.db");
    let table = Sqlite::open(&path, scope("1")).unwrap();
    let all = || ids(&["a", "b", "c"]);
    assert_eq!(table.look_up(all()).await, Ok(vec![Standing::New; 3]));
    assert_eq!(table.begin(ids(&["a", "b"])).await, Ok(vec![1, 1]));
    // Another process, after this one has died.
    let table = Sqlite::open(&path, scope("1")).unwrap();
    assert_eq!(table.begin(ids(&["b"])).await, Ok(vec![2]));
    let begun = vec![Standing::Begun(1), Standing::Begun(2), Standing::New];
    assert_eq!(table.look_up(all()).await, Ok(begun));
    table.write(vec![row("b", "x")].into()).await.unwrap();
    table.forget(ids(&["a"])).await.unwrap();
    let done = vec![Standing::New, Standing::Done, Standing::New];
    assert_eq!(table.look_up(all()).await, Ok(done));
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

#[test]
fn file_systems_of_other_machines_are_known_by_their_mounts() {
    let mounts =
        "/dev/sda / ext4 rw 0 0\nhost:/x /data nfs4 rw 0 0\ntmpfs /data/local tmpfs rw 0 0\n";
    let kind = |folder| remote(Path::new(folder), mounts);
    assert_eq!(kind("/home"), None);
    assert_eq!(kind("/data/a"), Some("nfs4"));
    assert_eq!(kind("/data/local/a"), None);
    assert_eq!(kind("/database"), None);
}
