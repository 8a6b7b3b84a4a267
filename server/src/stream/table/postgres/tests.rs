//! The table in a server that these tests start, where PostgreSQL is installed.

use super::*;
use crate::{
    database::postgres::cluster::Cluster,
    stream::table::tests::{all, row, scope},
};

#[test]
fn ids_that_an_index_cannot_hold_stand_as_their_digests() {
    assert_eq!(key("a b"), "a b");
    assert_eq!(key(&"x".repeat(LONGEST_ID)).len(), LONGEST_ID);
    assert!(key(&"x".repeat(LONGEST_ID + 1)).starts_with("sha256:"));
    assert_ne!(key("\0"), key("\0\0"));
}

/// One server for all, as starting one takes a while.
#[tokio::test]
async fn it_is_a_table() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    for (place, test) in all().into_iter().enumerate() {
        let config = cluster.database(&format!("test{place}")).await;
        let open = move |revision: &str| {
            let opened = Postgres::open(config.clone(), scope(revision));
            let table = async { Arc::new(opened.await.unwrap()) as Arc<dyn Table> };
            Box::pin(table) as BoxFuture<'static, _>
        };
        test(Arc::new(open)).await;
    }
    its_connection_is_made_anew(&cluster).await;
    what_is_no_table_of_answers_is_refused(&cluster).await;
    commits_are_on_the_disk(&cluster).await;
}

async fn its_connection_is_made_anew(cluster: &Cluster) {
    let config = cluster.database("anew").await;
    let table = Postgres::open(config.clone(), scope("1")).await.unwrap();
    assert_eq!(
        table.write(vec![row("a", "x")].into()).await,
        Ok(vec![Written::New])
    );
    let other = Database::open(config, &[]).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = 'anew' AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    assert_eq!(other.query(kill, &[]).await.unwrap().len(), 1);
    // The first may find out that the connection is gone; the next has another.
    let mut written = table.write(vec![row("b", "x")].into()).await;
    if let Err(error) = written {
        assert!(matches!(error, TableError::Unavailable(_)), "{error:?}");
        written = table.write(vec![row("b", "x")].into()).await;
    }
    assert_eq!(written, Ok(vec![Written::New]));
}

async fn what_is_no_table_of_answers_is_refused(cluster: &Cluster) {
    let config = cluster.database("other").await;
    let other: &[_] = &[("galley_answers", "CREATE TABLE galley_answers (id TEXT)")];
    Database::open(config.clone(), other).await.unwrap();
    let refused = Postgres::open(config.clone(), scope("1"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, TableError::Broken(reason) if reason.contains("does not exist")),
        "{refused:?}"
    );
    let mut nobody = config;
    nobody.user("nobody_of_that_name");
    let refused = Postgres::open(nobody, scope("1")).await.unwrap_err();
    assert!(matches!(refused, TableError::Broken(_)), "{refused:?}");
}

async fn commits_are_on_the_disk(cluster: &Cluster) {
    let config = cluster.database("careless").await;
    let database = Database::open(config.clone(), &[]).await.unwrap();
    let careless = "ALTER DATABASE careless SET synchronous_commit = off";
    database.query(careless, &[]).await.unwrap();
    let database = Database::open(config, &[]).await.unwrap();
    let rows = database
        .query("SHOW synchronous_commit", &[])
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "on");
}
