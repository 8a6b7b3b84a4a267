//! A list, whose checkpoint is the table that its answers go to: what has a row there is not delivered again, and what
//! was begun there and has none was in hand when a process died.

use std::{
    collections::HashSet,
    io::BufRead,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use galley_core::InputKind;
use tokio::sync::{Notify, mpsc};

use super::{Pulled, Source, SourceError, lines};
use crate::{
    database::TableError,
    stream::{
        message::{Body, Message, Receipt},
        outcome::Outcome,
        row::Standing,
        table::Table,
        tally::Tally,
    },
};

/// How many lines are looked up at once, at the most.
const CHUNK: usize = 512;
/// The most messages that wait to be delivered again; while there are as many no more lines are read.
const MAX_WAITING: usize = 4096;

/// A list of URIs or texts, one a line.
pub struct List {
    lines: Option<mpsc::Receiver<std::io::Result<Body>>>,
    /// Lines read and not delivered yet.
    read: Vec<Arc<Body>>,
    table: Arc<dyn Table>,
    shared: Arc<Shared>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Messages delivered, and neither acknowledged nor given back.
    out: usize,
    given_back: Vec<Again>,
    /// The ids that this process has begun and that have no row.
    begun: HashSet<String>,
}

/// A message to be delivered again.
#[derive(Clone)]
struct Again {
    body: Arc<Body>,
    deliveries: u32,
    suspect: bool,
    after: Instant,
}

impl List {
    /// Reads the list and leaves out what the table has, which counts as duplicates.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(
        lines: impl BufRead + Send + 'static,
        kind: InputKind,
        table: Arc<dyn Table>,
        tally: Arc<Tally>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            lines: Some(lines::read(lines, kind)?),
            read: Vec::new(),
            table,
            shared: Arc::default(),
            tally,
        })
    }

    async fn next(&mut self, room: usize) -> Result<Pulled, SourceError> {
        loop {
            // Before looking, so that what changes in between wakes it.
            let shared = Arc::clone(&self.shared);
            let mut changed = std::pin::pin!(shared.changed.notified());
            changed.as_mut().enable();
            if !self.read.is_empty() {
                let messages = self.check(room).await?;
                if !messages.is_empty() {
                    return Ok(Pulled::Messages(messages));
                }
                continue;
            }
            let (again, next, waiting, idle) = self.given_back(room);
            if !again.is_empty() {
                return Ok(Pulled::Messages(again));
            }
            if self.lines.is_none() && waiting == 0 && idle {
                return Ok(Pulled::Ended);
            }
            let lines = self.lines.as_mut().filter(|_| waiting < MAX_WAITING);
            tokio::select! {
                () = changed => {}
                () = until(next) => {}
                read = read(lines, room.min(CHUNK)) => self.keep(read)?,
            }
        }
    }

    fn keep(&mut self, read: Vec<std::io::Result<Body>>) -> Result<(), SourceError> {
        if read.is_empty() {
            self.lines = None;
        }
        for body in read {
            let body = body
                .map_err(|error| SourceError::Broken(format!("cannot read the list: {error}")))?;
            self.read.push(Arc::new(body));
        }
        Ok(())
    }

    /// The messages of the lines that were read. If it is dropped half way, the lines are there still.
    async fn check(&mut self, room: usize) -> Result<Vec<Message>, SourceError> {
        let count = self.read.len().min(room);
        // Twice in one chunk a line would be begun twice.
        let bodies = self.read[..count].iter();
        let mut ids: Vec<String> = bodies.map(|body| body.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let standings = self.table.look_up(ids.clone()).await.map_err(of_table)?;
        let new = ids.iter().zip(&standings);
        let new = new.filter(|(_, standing)| **standing == Standing::New);
        let new: Vec<String> = new.map(|(id, _)| id.clone()).collect();
        // What another process had begun before is suspect; what this one has is in hand, under another line.
        let own: Vec<bool> = {
            let mut state = self.shared.state();
            let own = ids.iter().map(|id| state.begun.contains(id)).collect();
            state.begun.extend(new.iter().cloned());
            own
        };
        if !new.is_empty() {
            self.table.begin(new).await.map_err(of_table)?;
        }
        let mut messages = Vec::new();
        for body in self.read.drain(..count) {
            let place = ids.binary_search(&body.id).unwrap_or_default();
            let (deliveries, suspect) = match standings[place] {
                Standing::Done => continue,
                Standing::Begun(times) if !own[place] => (times.saturating_add(1), true),
                Standing::Begun(_) | Standing::New => (1, false),
            };
            messages.push(deliver(&self.shared, body, deliveries, suspect));
        }
        let done = count - messages.len();
        self.tally.ended(Outcome::Duplicate, done as u64);
        self.shared.state().out += messages.len();
        Ok(messages)
    }

    /// What is due to be delivered again; when the next is, how many wait, and whether nothing is out.
    fn given_back(&self, room: usize) -> (Vec<Message>, Option<Instant>, usize, bool) {
        let now = Instant::now();
        let mut state = self.shared.state();
        let mut room = room;
        let due = state.given_back.extract_if(.., |again| {
            let due = again.after <= now && room > 0;
            room -= usize::from(due);
            due
        });
        let due: Vec<Message> = due
            .map(|again| {
                let deliveries = again.deliveries.saturating_add(1);
                deliver(&self.shared, again.body, deliveries, again.suspect)
            })
            .collect();
        state.out += due.len();
        let next = state.given_back.iter().map(|again| again.after).min();
        (due, next, state.given_back.len(), state.out == 0)
    }
}

impl Source for List {
    fn pull(&mut self, room: usize) -> BoxFuture<'_, Result<Pulled, SourceError>> {
        Box::pin(self.next(room))
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), SourceError>> {
        self.lines = None;
        self.read.clear();
        let begun = std::mem::take(&mut self.shared.state().begun);
        let ids = begun.into_iter().collect();
        Box::pin(async move { self.table.forget(ids).await.map_err(of_table) })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        state.out = state.out.saturating_sub(1);
        change(&mut state);
        drop(state);
        self.changed.notify_one();
    }
}

fn deliver(shared: &Arc<Shared>, body: Arc<Body>, deliveries: u32, suspect: bool) -> Message {
    let receipt = Delivered {
        shared: Arc::clone(shared),
        body: Arc::clone(&body),
        deliveries,
        suspect,
    };
    Message {
        body,
        deliveries,
        published_at: None,
        suspect,
        receipt: Arc::new(receipt),
    }
}

/// One delivery of a line.
struct Delivered {
    shared: Arc<Shared>,
    body: Arc<Body>,
    deliveries: u32,
    suspect: bool,
}

impl Receipt for Delivered {
    fn ack(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        self.shared.settle(|state| {
            state.begun.remove(&self.body.id);
        });
        Box::pin(async { Ok(()) })
    }

    fn give_back(&self, delay: Option<Duration>) -> BoxFuture<'_, Result<(), SourceError>> {
        let again = Again {
            body: Arc::clone(&self.body),
            deliveries: self.deliveries,
            suspect: self.suspect,
            after: Instant::now() + delay.unwrap_or_default(),
        };
        self.shared.settle(|state| state.given_back.push(again));
        Box::pin(async { Ok(()) })
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Some lines, at least one; none at the list's end.
async fn read(
    lines: Option<&mut mpsc::Receiver<std::io::Result<Body>>>,
    most: usize,
) -> Vec<std::io::Result<Body>> {
    let mut read = Vec::new();
    match lines {
        Some(lines) => drop(lines.recv_many(&mut read, most).await),
        None => std::future::pending().await,
    }
    read
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

fn of_table(error: TableError) -> SourceError {
    match error {
        TableError::Unavailable(_) => SourceError::Unavailable(error.to_string()),
        TableError::Broken(reason) => SourceError::Broken(reason),
    }
}

#[cfg(test)]
mod tests;
