//! Rows on their way into the table: gathered for a moment, written in one transaction, and only then acknowledged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedRwLockWriteGuard, mpsc};

use super::Worker;
use crate::{
    metrics::Stage,
    stream::row::{Row, Written},
};

/// The most rows of a transaction.
const MAX_ROWS: usize = 512;
/// How long a row waits for others.
const GATHER: Duration = Duration::from_millis(50);

/// A row, and since when it is on its way.
pub(super) struct Done {
    pub(super) row: Row,
    /// When its message was delivered.
    pub(super) delivered: Instant,
    /// When its answer was there.
    pub(super) answered: Instant,
    /// Nobody else is answered before it is committed.
    pub(super) turn: Option<Alone>,
}

/// A turn at being answered alone.
pub(super) type Alone = OwnedRwLockWriteGuard<()>;

/// Writes rows until nobody sends any more.
pub(super) async fn run(worker: Arc<Worker>, mut rows: mpsc::Receiver<Done>) {
    while let Some(done) = gather(&worker, &mut rows).await {
        let written: Vec<Row> = done.iter().map(|done| done.row.clone()).collect();
        let written: Arc<[Row]> = written.into();
        let ask = || worker.table().write(Arc::clone(&written));
        let Some(outcomes) = worker.ask(ask).await else {
            return;
        };
        let now = Instant::now();
        let metrics = worker.tally().metrics();
        for (done, outcome) in done.iter().zip(outcomes) {
            metrics.stage(Stage::Write, now - done.answered);
            metrics.stage(Stage::Total, now - done.delivered);
            if outcome == Written::Conflict {
                tracing::warn!(
                    id = done.row.id,
                    uri = done.row.uri,
                    "there is a row of this id for another input, which stays as it is"
                );
            }
            worker.settle(&done.row.id, done.row.status, outcome).await;
        }
    }
}

/// Some rows: as many as are in hand, as a transaction may have, or as come in a moment.
async fn gather(worker: &Worker, rows: &mut mpsc::Receiver<Done>) -> Option<Vec<Done>> {
    let mut done = Vec::new();
    if rows.recv_many(&mut done, MAX_ROWS).await == 0 {
        return None;
    }
    let moment = tokio::time::sleep(GATHER);
    tokio::pin!(moment);
    // Where one is alone there are no others to come.
    let is_alone = |done: &[Done]| done.iter().any(|done| done.turn.is_some());
    while !is_alone(&done) && done.len() < MAX_ROWS.min(worker.in_hand()) {
        let room = MAX_ROWS - done.len();
        tokio::select! {
            more = rows.recv_many(&mut done, room) => if more == 0 { break },
            () = &mut moment => break,
        }
    }
    Some(done)
}
