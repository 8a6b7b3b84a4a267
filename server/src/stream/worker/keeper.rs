//! What is to be done every so often while a worker works: measuring its rate, and telling the source what is in hand.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval};

use super::Worker;
use crate::metrics::Registry;

const TICK: Duration = Duration::from_millis(100);
/// After so many ticks samples are folded into the metrics' buckets.
const UPKEEP: u32 = 10;

/// Never returns.
pub(in crate::stream) async fn run(
    worker: Arc<Worker>,
    registry: Arc<Registry>,
    ack_wait: Option<Duration>,
) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 1u32.. {
        ticks.tick().await;
        worker.measure(Instant::now());
        if let Some(ack_wait) = ack_wait {
            let due = worker.renew(ack_wait / 3, Instant::now());
            for renewed in join_all(due.iter().map(|receipt| receipt.renew())).await {
                if let Err(error) = renewed {
                    // Then it is delivered to another, too, and has one row all the same.
                    tracing::debug!(%error, "cannot renew a message");
                }
            }
        }
        if tick % UPKEEP == 0 {
            registry.upkeep();
        }
    }
}
