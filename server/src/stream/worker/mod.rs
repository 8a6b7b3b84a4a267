//! A worker: pulls messages as far as its window has room, works on all of them at once, and ends when there are no more
//! or it is told to.

pub(super) mod keeper;
mod work;
mod writer;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use futures::future::{BoxFuture, join_all};
use tokio::sync::{Notify, RwLock, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::writer::Done;
use super::{
    config::WorkConfig,
    fetch::Fetcher,
    ledger::{Ledger, Taken},
    message::{Message, Receipt},
    outcome::Outcome,
    row::{Status, Written},
    source::{Pulled, Source, SourceError},
    table::Table,
    tally::Tally,
    window::Window,
};
use crate::{database::TableError, engine::Served, signals::Signals};

/// How long a source or table that cannot be reached is left alone, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Works on messages.
pub struct Worker {
    served: Arc<Served>,
    fetcher: Fetcher,
    config: WorkConfig,
    table: Arc<dyn Table>,
    tally: Arc<Tally>,
    hand: Mutex<Hand>,
    /// Something has left the hand.
    left: Notify,
    /// Deliveries that have ended with a row, to measure the rate by.
    ended: AtomicU64,
    /// The first delivery, and the last commit.
    span: Mutex<Option<(Instant, Instant)>>,
    /// Turns at fetching.
    fetches: Semaphore,
    /// Taken by all for as long as they are answered, and by a suspect alone.
    alone: Arc<RwLock<()>>,
    /// Cancelled when nothing more can be done, with why.
    failed: CancellationToken,
    failure: OnceLock<String>,
}

struct Hand {
    ledger: Ledger<Arc<dyn Receipt>>,
    window: Window,
    measured: u64,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker with nothing in hand.
    pub fn new(
        served: Arc<Served>,
        fetcher: Fetcher,
        config: WorkConfig,
        (table, tally): (Arc<dyn Table>, Arc<Tally>),
        ack_wait: Option<Duration>,
    ) -> Arc<Self> {
        Arc::new(Self {
            served,
            fetcher,
            table,
            tally,
            hand: Mutex::new(Hand {
                ledger: Ledger::default(),
                window: Window::new(config.max_in_hand, ack_wait, Instant::now()),
                measured: 0,
            }),
            left: Notify::new(),
            ended: AtomicU64::new(0),
            span: Mutex::new(None),
            fetches: Semaphore::new(config.fetches),
            alone: Arc::default(),
            failed: CancellationToken::new(),
            failure: OnceLock::new(),
            config,
        })
    }

    /// Works until the source ends or a signal comes; then finishes what has begun, and gives the rest back at once.
    ///
    /// # Errors
    /// The source, the table or the device does not work any more, or finishing took too long.
    pub async fn run(
        self: &Arc<Self>,
        mut source: Box<dyn Source>,
        signals: &mut Signals,
        drain_timeout: Duration,
    ) -> anyhow::Result<()> {
        let tasks = TaskTracker::new();
        // As many as are in hand may be on their way at once.
        let (done, rows) = mpsc::channel(self.config.max_in_hand.min(4096));
        let writing = tokio::spawn(writer::run(Arc::clone(self), rows));
        let fed = tokio::select! {
            fed = self.feed(source.as_mut(), &tasks, &done) => fed,
            () = signals.end() => {
                tracing::info!("finishing what is in hand");
                Ok(())
            }
            () = self.failed.cancelled() => Err(self.failure()),
        };
        let rest = self.hand().ledger.give_back_rest();
        // First, or the source would deliver to us what we give back.
        if let Err(error) = source.stop().await {
            tracing::warn!(%error, "cannot tell the source that no more is wanted");
        }
        self.give_back(rest, None).await;
        drop(done);
        tasks.close();
        let finished = tokio::select! {
            finished = async { tasks.wait().await; writing.await } => {
                finished.map_err(|_| anyhow!("writing rows panicked"))
            }
            () = self.failed.cancelled() => Err(self.failure()),
            () = signals.end() => Err(anyhow!("ended by a second signal before everything in hand was finished")),
            () = tokio::time::sleep(drain_timeout) => {
                Err(anyhow!("what is in hand was not finished within --drain-timeout"))
            }
        };
        let rest = self.hand().ledger.give_back_all();
        self.give_back(rest, None).await;
        if let Err(error) = source.close().await {
            tracing::warn!(%error, "cannot tell the source what was not finished");
        }
        fed.and(finished)
    }

    async fn feed(
        self: &Arc<Self>,
        source: &mut dyn Source,
        tasks: &TaskTracker,
        done: &mpsc::Sender<Done>,
    ) -> anyhow::Result<()> {
        let mut pause = PAUSES[0];
        loop {
            let room = self.room().await;
            match source.pull(room).await {
                Ok(Pulled::Ended) => return Ok(()),
                Ok(Pulled::Messages(messages)) => {
                    pause = PAUSES[0];
                    for message in messages {
                        self.take(message, tasks, done);
                    }
                }
                Err(SourceError::Broken(reason)) => bail!(reason),
                Err(SourceError::Unavailable(reason)) => {
                    tracing::warn!(reason, "cannot pull messages; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSES[1]);
                }
            }
        }
    }

    /// Waits until there is room for enough messages that asking for them is worth it.
    async fn room(&self) -> usize {
        loop {
            {
                let hand = self.hand();
                let size = hand.window.size(self.served.max_batch_size());
                let in_hand = hand.ledger.len();
                let room = size.saturating_sub(in_hand);
                if room > 0 && (room >= size / 4 || in_hand == 0) {
                    return room;
                }
            }
            self.left.notified().await;
        }
    }

    fn take(self: &Arc<Self>, message: Message, tasks: &TaskTracker, done: &mpsc::Sender<Done>) {
        let now = Instant::now();
        self.span().get_or_insert((now, now));
        if message.deliveries > 1 {
            self.tally.metrics().redelivered.increment(1);
        }
        let body = &message.body;
        let receipt = Arc::clone(&message.receipt);
        let taken = self
            .hand()
            .ledger
            .take(&body.id, &body.identity(), receipt, now);
        if taken == Taken::New {
            tasks.spawn(Arc::clone(self).handle(message, done.clone(), now));
        }
    }

    /// Whether work on a message begins: it does not if it was given back meanwhile.
    fn begin(&self, id: &str) -> bool {
        self.hand().ledger.begin(id)
    }

    /// The table has committed a message's row, or has one: its deliveries are acknowledged.
    async fn settle(&self, id: &str, status: Status, written: Written) {
        let ended = self.hand().ledger.commit(id, status, written);
        self.ended.fetch_add(ended.len() as u64, Ordering::Relaxed);
        if let Some((_, last)) = self.span().as_mut() {
            *last = Instant::now();
        }
        self.left.notify_one();
        for (receipt, outcome) in ended {
            self.tally.ended(outcome, 1);
            if let Err(error) = receipt.ack().await {
                tracing::debug!(%error, "cannot acknowledge a message; it will be delivered again");
            }
        }
    }

    /// A message has no row: it is to be delivered again.
    async fn return_one(&self, id: &str, delay: Option<Duration>) {
        let receipts = self.hand().ledger.give_back(id);
        self.give_back(receipts, delay).await;
    }

    async fn give_back(&self, receipts: Vec<Arc<dyn Receipt>>, delay: Option<Duration>) {
        self.left.notify_one();
        self.tally.ended(Outcome::Returned, receipts.len() as u64);
        let given = receipts.iter().map(|receipt| receipt.give_back(delay));
        for given in join_all(given).await {
            if let Err(error) = given {
                tracing::debug!(%error, "cannot give a message back; it will be delivered again all the same");
            }
        }
    }

    /// Asks the table for as long as it cannot be reached. None if it will not work any more.
    async fn ask<'a, T>(
        &self,
        ask: impl Fn() -> BoxFuture<'a, Result<T, TableError>>,
    ) -> Option<T> {
        let mut pause = PAUSES[0];
        loop {
            match ask().await {
                Ok(answer) => return Some(answer),
                Err(TableError::Unavailable(reason)) => {
                    tracing::warn!(reason, "the table cannot be reached; trying again");
                    self.tally.metrics().table_retries.increment(1);
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSES[1]);
                }
                Err(TableError::Broken(reason)) => {
                    self.fail(reason);
                    return None;
                }
            }
        }
    }

    /// Nothing more can be done.
    fn fail(&self, reason: String) {
        // The first reason is the one that the others follow from.
        let _ = self.failure.set(reason);
        self.failed.cancel();
    }

    fn failure(&self) -> anyhow::Error {
        anyhow!(self.failure.get().cloned().unwrap_or_default())
    }

    /// Looks at what has happened since the last time.
    fn measure(&self, now: Instant) {
        let ended = self.ended.load(Ordering::Relaxed);
        let batch = self.served.max_batch_size();
        let short = self.fetcher.budget().was_short();
        let metrics = self.tally.metrics();
        let mut hand = self.hand();
        let messages = ended - hand.measured;
        hand.measured = ended;
        let in_hand = hand.ledger.len();
        match messages == 0 && in_hand == 0 {
            true => hand.window.idle(now),
            false => hand.window.finished(messages as usize, batch, now),
        }
        if short {
            hand.window.pressed(in_hand, now);
        }
        metrics.in_hand.set(in_hand as f64);
        metrics.window.set(hand.window.size(batch) as f64);
        metrics
            .bytes_in_hand
            .set(self.fetcher.budget().taken() as f64);
        drop(hand);
        // The window may have grown.
        self.left.notify_one();
    }

    /// What is to be renewed at the source.
    fn renew(&self, interval: Duration, now: Instant) -> Vec<Arc<dyn Receipt>> {
        self.hand().ledger.renew(interval, now)
    }

    fn in_hand(&self) -> usize {
        self.hand().ledger.len()
    }

    fn table(&self) -> &Arc<dyn Table> {
        &self.table
    }

    fn tally(&self) -> &Tally {
        &self.tally
    }

    /// From the first delivery to the last commit.
    pub fn time(&self) -> Duration {
        self.span()
            .map_or(Duration::ZERO, |(first, last)| last.duration_since(first))
    }

    fn span(&self) -> MutexGuard<'_, Option<(Instant, Instant)>> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
