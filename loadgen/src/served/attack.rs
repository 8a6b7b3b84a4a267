//! A closed loop of clients, run by goose: each user sends its next request once it has the answer to its last.
//!
//! goose starts the users. Each user's one transaction takes requests off a counter that all share until there are none
//! left, so that exactly the wanted requests are sent and all users are busy until the end. It does so on one of the load
//! generator's threads, so that nothing of goose's is passed by a request. Time is measured here, because goose counts a response
//! as complete at its headers, and whole runs in seconds.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use goose::{
    GooseAttack,
    client::GooseClientBuilder,
    config::GooseConfiguration,
    goose::{GooseUser, Scenario, Transaction, TransactionFunction},
};
use hyper::{Request, Uri};
use reqwest::Url;
use tokio::sync::Semaphore;

use super::{
    answer::Failure,
    link::Link,
    payload::Encoder,
    tally::Tally,
    threads::{Place, Threads},
};
use crate::{
    error::{Error, Result},
    interrupt, stats,
};

/// The requests of one run, and what came of those sent so far.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) infer: Uri,
    pub(crate) encoder: Arc<Encoder>,
    /// Which of the corpus's examples are sent.
    pub(crate) first: usize,
    pub(crate) examples: usize,
    pub(crate) batch: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) progress: Progress,
}

/// How far the clients are.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The next request to send.
    next: AtomicUsize,
    started: OnceLock<Instant>,
    tally: Mutex<Tally>,
    /// Why the clients cannot go on.
    failed: Mutex<Option<Error>>,
    /// Clients that have found no more requests.
    finished: Semaphore,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            next: AtomicUsize::new(0),
            started: OnceLock::new(),
            tally: Mutex::default(),
            failed: Mutex::default(),
            finished: Semaphore::new(0),
        }
    }
}

impl Attack {
    /// Requests in the whole run.
    pub(crate) fn requests(&self) -> usize {
        stats::requests(self.examples, self.batch)
    }

    /// Examples in requests that have been taken up.
    pub(crate) fn taken(&self) -> usize {
        let next = self.progress.next.load(Ordering::Relaxed);
        self.examples.min(next * self.batch)
    }

    /// What came of all requests, and the time from the first until the last answer was complete.
    ///
    /// # Errors
    /// It was interrupted, or the corpus cannot be read.
    pub(crate) fn result(&self) -> Result<(Tally, Duration)> {
        interrupt::check()?;
        let lock = |error| PoisonError::into_inner(error);
        if let Some(error) = self.progress.failed.lock().unwrap_or_else(lock).take() {
            return Err(error);
        }
        let tally = std::mem::take(
            &mut *self
                .progress
                .tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        match (self.progress.started.get(), tally.ended) {
            (Some(&started), Some(ended)) => Ok((tally, ended - started)),
            _ => Err(Error::Client("no request was sent".into())),
        }
    }

    /// One client: sends requests until there are none left.
    pub(crate) async fn client(&self, link: &Link) {
        let started = *self.progress.started.get_or_init(Instant::now);
        let mut tally = Tally::default();
        loop {
            let index = self.progress.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.requests() || interrupt::requested() {
                break;
            }
            let from = index * self.batch;
            let to = self.examples.min(from + self.batch);
            let examples = self.first + from..self.first + to;
            let request = match self.encoder.request(&self.infer, examples) {
                Ok(request) => request,
                Err(error) => {
                    *self
                        .progress
                        .failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(error);
                    break;
                }
            };
            let due = self.due(started, index).await;
            let outcome = send(link, request, &self.encoder, to - from).await;
            let ended = Instant::now();
            tally.note(outcome, to - from, ended - due, ended);
        }
        self.progress
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .merge(tally);
    }

    /// The same on one of the load generator's threads.
    pub(super) async fn client_at(self: Arc<Self>, place: Place) {
        let Place { handle, link } = place;
        let attack = self.clone();
        // A client that panicked has finished too.
        let _ = handle
            .spawn(async move { attack.client(&link).await })
            .await;
        self.progress.finished.add_permits(1);
    }

    /// Waits until so many clients have finished.
    async fn finished(&self, clients: usize) {
        let all = u32::try_from(clients).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.progress.finished.acquire_many(all).await;
    }

    /// Waits until a request is due, and says when that was: now, unless requests come at a rate of their own.
    async fn due(&self, started: Instant, index: usize) -> Instant {
        let Some(rate) = self.rate else {
            return Instant::now();
        };
        let due = started + Duration::from_secs_f64(index as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        due
    }
}

/// Sends a request of so many examples, reads the answer to its end and judges it.
pub(super) async fn send(
    link: &Link,
    request: Request<Bytes>,
    encoder: &Encoder,
    items: usize,
) -> Result<(), Failure> {
    let (status, body) = link.send(request).await?;
    encoder.check(status, &body, items)
}

/// Lets goose run the attack with this many users.
///
/// # Errors
/// goose refuses its configuration.
pub(super) async fn run(
    attack: &Arc<Attack>,
    server: &Url,
    threads: &Threads,
    concurrency: usize,
) -> Result<()> {
    let shared = attack.clone();
    let places: Vec<Place> = (0..concurrency)
        .map(|client| threads.place(client).clone())
        .collect();
    let started = AtomicUsize::new(0);
    let transaction: TransactionFunction = Arc::new(move |_: &mut GooseUser| {
        let client = started.fetch_add(1, Ordering::Relaxed);
        let client = shared
            .clone()
            .client_at(places[client % places.len()].clone());
        Box::pin(async move {
            client.await;
            Ok(())
        })
    });
    // Run once at its start, it is all that a user does. A transaction that repeats would need a limit of iterations,
    // with which goose prints to standard output.
    let transaction = Transaction::new(transaction).set_on_start();
    let scenario = Scenario::new("closed loop").register_transaction(transaction);
    let failed = |error: goose::GooseError| Error::Client(error.to_string());
    let goose = GooseAttack::initialize_with_config(configuration(server, concurrency)?)
        .map_err(failed)?
        .set_client_builder_without_cookies(GooseClientBuilder::new().without_cookies())
        .map_err(failed)?
        .register_scenario(scenario);
    // goose looks for its end twice a second only, so it is not waited for: its users have ended by themselves.
    tokio::select! {
        result = goose.execute() => result.map(drop).map_err(failed),
        () = attack.finished(concurrency) => Ok(()),
    }
}

fn configuration(server: &Url, concurrency: usize) -> Result<GooseConfiguration> {
    let host = server.origin().ascii_serialization();
    let users = concurrency.to_string();
    let args = [
        "--host",
        &host,
        "--users",
        &users,
        // All users at once: starting them one by one would be part of the measured time.
        "--increase-rate",
        "1000000",
        "--no-metrics",
        "--no-print-metrics",
        "--no-telnet",
        "--quiet",
    ];
    GooseConfiguration::parse_args_default(&args).map_err(|error| Error::Client(error.to_string()))
}
