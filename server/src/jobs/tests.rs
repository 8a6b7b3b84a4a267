//! What a table of jobs promises, whatever holds it. Leases end at once where they last no time.

mod world;

use futures::future::{BoxFuture, LocalBoxFuture, join_all};

use super::*;
use crate::database::postgres::cluster::Cluster;

const RECIPE: &str = "echo";
const LONG: Duration = Duration::from_secs(3600);
const BOUNDS: Bounds = Bounds {
    ttl: LONG,
    jobs: 100,
    bytes: 1 << 20,
};

/// Opens the same table once more, with leases of that length.
type Open = Box<dyn Fn(Duration) -> BoxFuture<'static, JobTable>>;
type Test = fn(Open) -> LocalBoxFuture<'static, ()>;

/// Each wants an empty table.
fn all() -> [Test; 6] {
    [
        |open| Box::pin(an_id_is_one_job_until_it_fails_or_expires(open)),
        |open| Box::pin(whoever_lost_its_lease_writes_nothing(open)),
        |open| Box::pin(what_is_given_back_was_not_begun(open)),
        |open| Box::pin(many_at_once_take_each_job_once(open)),
        |open| Box::pin(leases_last_as_long_as_they_are_renewed(open)),
        |open| Box::pin(results_are_bounded(open)),
    ]
}

fn config(address: Address, lease: Duration) -> JobsConfig {
    JobsConfig {
        address,
        lease,
        attempts: 5,
    }
}

fn new(id: &str, body: &'static [u8]) -> New {
    New {
        recipe: RECIPE,
        id: id.into(),
        digest: [body.len() as u8; 32],
        input: JobInput {
            timeout: Duration::from_millis(1500),
            form: "multipart x".into(),
            body: body.into(),
        },
    }
}

async fn begin(table: &JobTable, id: &str) -> Lease {
    match table.begin(new(id, b"body"), BOUNDS).await.unwrap() {
        Begun::New(lease) => lease,
        other => panic!("{id}: {other:?}"),
    }
}

fn answered(answer: &'static str) -> End {
    End {
        status: 200,
        error: None,
        answer: Some(answer.into()),
    }
}

fn failed() -> End {
    End {
        status: 500,
        error: Some("a \0 in it".into()),
        answer: None,
    }
}

async fn find(table: &JobTable, id: &str) -> Option<Option<End>> {
    table.find(RECIPE, id, LONG).await.unwrap()
}

async fn an_id_is_one_job_until_it_fails_or_expires(open: Open) {
    let table = open(LONG).await;
    let id = "a 'quoted' ü?";
    assert_eq!(find(&table, id).await, None);
    let lease = begin(&table, id).await;
    assert_eq!(find(&table, id).await, Some(None));
    assert_eq!(table.find("other", id, LONG).await, Ok(None));
    assert_eq!(
        table.begin(new(id, b"body"), BOUNDS).await,
        Ok(Begun::Known)
    );
    assert_eq!(
        table.begin(new(id, b"other"), BOUNDS).await,
        Ok(Begun::Conflict)
    );
    let full = Bounds { jobs: 1, ..BOUNDS };
    assert_eq!(table.begin(new("b", b"x"), full).await, Ok(Begun::Full));
    // Asked once more, for want of an answer, it says the same.
    for _ in 0..2 {
        assert_eq!(table.finish(&lease, &failed()).await, Ok(true));
    }
    let end = find(&table, id).await.flatten().unwrap();
    assert_eq!(end.error.as_deref(), Some("a \u{fffd} in it"));
    assert_eq!(
        table.begin(new(id, b"other"), BOUNDS).await,
        Ok(Begun::Conflict)
    );
    let again = begin(&table, id).await;
    assert_eq!(find(&table, id).await, Some(None));
    assert_eq!(table.finish(&lease, &answered("old")).await, Ok(false));
    assert_eq!(table.finish(&again, &answered("new")).await, Ok(true));
    assert_eq!(find(&table, id).await, Some(Some(answered("new"))));
    assert_eq!(
        table.begin(new(id, b"body"), BOUNDS).await,
        Ok(Begun::Known)
    );
    let at_once = Bounds {
        ttl: Duration::ZERO,
        ..BOUNDS
    };
    assert_eq!(table.find(RECIPE, id, at_once.ttl).await, Ok(None));
    assert!(matches!(
        table.begin(new(id, b"other"), at_once).await,
        Ok(Begun::New(_))
    ));
    assert_eq!(find(&table, id).await, Some(None));
}

async fn whoever_lost_its_lease_writes_nothing(open: Open) {
    let (slow, other) = (open(Duration::ZERO).await, open(LONG).await);
    let lost = begin(&slow, "a").await;
    let taken = other.take(RECIPE, 10).await.unwrap();
    let [lease] = &taken[..] else {
        panic!("{taken:?}");
    };
    assert_eq!((&*lease.id, lease.begun, lease.size), ("a", 1, 4));
    assert_eq!(slow.start(&lost).await, Ok(None));
    assert_eq!(slow.release(&lost, Duration::ZERO).await, Ok(false));
    assert_eq!(slow.finish(&lost, &answered("lost")).await, Ok(false));
    assert_eq!(other.take(RECIPE, 10).await, Ok(vec![]));
    assert_eq!(find(&slow, "a").await, Some(None));
    let input = other.start(lease).await.unwrap();
    assert_eq!(input, Some(new("a", b"body").input));
    assert_eq!(other.finish(lease, &answered("taken")).await, Ok(true));
    assert_eq!(slow.finish(&lost, &answered("lost")).await, Ok(false));
    assert_eq!(find(&slow, "a").await, Some(Some(answered("taken"))));
    assert_eq!(other.start(lease).await, Ok(None), "it has ended");
}

async fn what_is_given_back_was_not_begun(open: Open) {
    let table = open(LONG).await;
    let lease = begin(&table, "a").await;
    assert_eq!(table.release(&lease, Duration::ZERO).await, Ok(true));
    assert_eq!(table.release(&lease, Duration::ZERO).await, Ok(false));
    let taken = table.take(RECIPE, 10).await.unwrap();
    assert_eq!(taken[0].begun, 0);
    for _ in 0..2 {
        // The same attempt, asked for twice.
        assert!(table.start(&taken[0]).await.unwrap().is_some());
    }
    let other = open(LONG).await;
    assert_eq!(other.release(&taken[0], Duration::ZERO).await, Ok(true));
    assert_eq!(table.take(RECIPE, 10).await.unwrap()[0].begun, 0);
    let later = begin(&table, "b").await;
    assert_eq!(table.release(&later, LONG).await, Ok(true));
    assert_eq!(table.take(RECIPE, 10).await, Ok(vec![]));
}

async fn many_at_once_take_each_job_once(open: Open) {
    let ended = open(Duration::ZERO).await;
    for number in 0..40 {
        begin(&ended, &number.to_string()).await;
    }
    let tables = join_all((0..4).map(|_| open(LONG))).await;
    let mut ids = Vec::new();
    while ids.len() < 40 {
        let taken = join_all(tables.iter().map(|table| table.take(RECIPE, 3))).await;
        let taken: Vec<Lease> = taken.into_iter().flat_map(Result::unwrap).collect();
        assert!(!taken.is_empty(), "only {ids:?}");
        assert!(taken.len() <= 12);
        ids.extend(taken.into_iter().map(|lease| lease.id));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 40);
}

async fn leases_last_as_long_as_they_are_renewed(open: Open) {
    let (ended, long) = (open(Duration::ZERO).await, open(LONG).await);
    let (kept, left) = (begin(&ended, "kept").await, begin(&ended, "left").await);
    let gone = "of nobody".to_owned();
    long.renew(vec![kept.token.clone(), gone]).await.unwrap();
    let taken = long.take(RECIPE, 10).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].id, left.id);
}

async fn results_are_bounded(open: Open) {
    let table = open(LONG).await;
    for id in ["a", "b", "c", "d"] {
        let lease = begin(&table, id).await;
        assert_eq!(table.finish(&lease, &answered("1234")).await, Ok(true));
        // The next one ends in another millisecond.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begin(&table, "open").await;
    let known = async || {
        let mut known = String::new();
        for id in ["a", "b", "c", "d", "open"] {
            known += find(&table, id).await.map_or("", |_| id);
        }
        known
    };
    table.sweep(BOUNDS).await.unwrap();
    assert_eq!(known().await, "abcdopen");
    let few = Bounds { jobs: 3, ..BOUNDS };
    table.sweep(few).await.unwrap();
    assert_eq!(known().await, "bcdopen");
    let small = Bounds { bytes: 8, ..BOUNDS };
    table.sweep(small).await.unwrap();
    assert_eq!(known().await, "cdopen");
    let tiny = Bounds { bytes: 1, ..BOUNDS };
    table.sweep(tiny).await.unwrap();
    assert_eq!(known().await, "dopen", "the newest stays");
    let short = Bounds {
        ttl: Duration::ZERO,
        ..BOUNDS
    };
    table.sweep(short).await.unwrap();
    assert_eq!(known().await, "open");
}

#[tokio::test]
async fn a_file_is_one() {
    for test in all() {
        let folder = tempfile::tempdir().unwrap();
        let address = Address::Sqlite(folder.path().join("jobs.db"));
        let open = move |lease| -> BoxFuture<'static, JobTable> {
            let config = config(address.clone(), lease);
            Box::pin(async move { JobTable::open(&config).await.unwrap() })
        };
        test(Box::new(open)).await;
    }
}

/// One server for all, as starting one takes a while.
#[tokio::test]
async fn postgres_is_one() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    for (place, test) in all().into_iter().enumerate() {
        let database = cluster.database(&format!("jobs{place}")).await;
        let address = Address::Postgres(Box::new(database));
        let open = move |lease| -> BoxFuture<'static, JobTable> {
            let config = config(address.clone(), lease);
            Box::pin(async move { JobTable::open(&config).await.unwrap() })
        };
        test(Box::new(open)).await;
    }
    let mut nobody = cluster.database("others").await;
    nobody.user("nobody_of_that_name");
    let refused = JobTable::open(&config(Address::Postgres(Box::new(nobody)), LONG)).await;
    assert!(matches!(refused, Err(TableError::Broken(_))), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for_and_another_table_is_refused() {
    let away = "postgres://galley@127.0.0.1:1/jobs?connect_timeout=1";
    let address = Address::parse("--jobs", away).unwrap();
    let table = JobTable::open(&config(address, LONG)).await.unwrap();
    let found = table.find(RECIPE, "a", LONG).await;
    assert!(
        matches!(found, Err(TableError::Unavailable(_))),
        "{found:?}"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TABLE galley_jobs (recipe TEXT, lease_until INT, status INT)")
        .unwrap();
    let refused = JobTable::open(&config(Address::Sqlite(path), LONG)).await;
    assert!(
        matches!(&refused, Err(TableError::Broken(reason)) if reason.contains("no such column")),
        "{refused:?}"
    );
}
