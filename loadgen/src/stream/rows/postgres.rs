//! Rows of a PostgreSQL database, over a connection that is not encrypted.

use tokio_postgres::{Client, Error, NoTls, types::Type};

use super::{ROWS, Row, Times};

/// The rows whose ids begin so.
pub(super) async fn read(url: &str, prefix: &str) -> Result<Vec<Row>, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // It ends with the client; what is wrong with it the question hears.
    let rows = async move { ask(&client, prefix).await };
    let (rows, _) = tokio::join!(rows, connection);
    rows
}

async fn ask(client: &Client, prefix: &str) -> Result<Vec<Row>, Error> {
    let rows = client.query_typed(ROWS, &[(&prefix, Type::TEXT)]).await?;
    rows.iter().map(row).collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row, Error> {
    let times = Times {
        published: row.try_get(5)?,
        fetched: row.try_get(6)?,
        answered: row.try_get(7)?,
        written: row.try_get(8)?,
        fetch_ms: row.try_get(9)?,
        infer_ms: row.try_get(10)?,
    };
    Ok(Row {
        id: row.try_get(0)?,
        status: row.try_get(1)?,
        answer: row.try_get(2)?,
        error: row.try_get(3)?,
        ..Row::of(row.try_get(4)?, times)
    })
}
