//! Whose turn it is on a connection of HTTP/1, the client's or the server's, and since when: what its time limits, the choice
//! of who has to go where all seats are taken, and the look-out for clients that have gone follow from.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::{BUFFER, Limits};

/// What is to happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The client sends a header, or what is left of it.
    Header,
    /// The client sends another request, or nothing more.
    Request,
    /// The client sends more of a body.
    Body,
    /// Another connection gives up its seat.
    Seat,
    /// The server answers.
    Answer,
}

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turn(Mutex<State>);

#[derive(Debug)]
struct State {
    next: Next,
    since: Instant,
    /// Since when the client does not read what is sent.
    blocked: Option<Instant>,
    /// Who waits until it does.
    unblocked: Option<Waker>,
    /// When the last byte of the request that is answered came.
    arrived: Option<Instant>,
    /// Whether its answer has been handed over to be sent.
    answered: bool,
    /// The header that is read, as it came.
    header: Vec<u8>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            next: Next::Header,
            since: Instant::now(),
            blocked: None,
            unblocked: None,
            arrived: None,
            answered: false,
            header: Vec::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_is(&self, next: Next) {
        let mut state = self.lock();
        if state.next != next {
            state.next = next;
            state.since = Instant::now();
        }
    }

    /// Bytes have come.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut state = self.lock();
        // Some clients end a body with a line's end that does not belong to it.
        if state.next == Next::Request && bytes.iter().any(|byte| !b"\r\n".contains(byte)) {
            state.next = Next::Header;
            state.since = Instant::now();
        }
        if state.next == Next::Header && state.header.len() + bytes.len() <= 2 * BUFFER {
            state.header.extend_from_slice(bytes);
        }
    }

    /// A header has been read.
    pub(super) fn begin(&self, has_body: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        state.next = Next::Answer;
        state.since = now;
        state.arrived = (!has_body).then_some(now);
        state.answered = false;
    }

    /// The last header as it came with what came after it, if it is known: not where it came with the request before.
    pub(super) fn take_header(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().header)
    }

    pub(super) fn awaits_body(&self) {
        self.next_is(Next::Body);
    }

    pub(super) fn body_came(&self) {
        self.next_is(Next::Answer);
    }

    /// The whole body has come, or nobody wants the rest.
    pub(super) fn body_ended(&self) {
        self.next_is(Next::Answer);
        self.lock().arrived = Some(Instant::now());
    }

    pub(super) fn awaits_seat(&self) {
        self.next_is(Next::Seat);
    }

    pub(super) fn has_seat(&self) {
        self.next_is(Next::Answer);
    }

    /// All of the answer has been handed over.
    pub(super) fn answered(&self) {
        self.lock().answered = true;
    }

    /// The client reads nothing.
    pub(super) fn blocked(&self) {
        self.lock().blocked.get_or_insert_with(Instant::now);
    }

    /// It has read something.
    pub(super) fn unblocked(&self) {
        let mut state = self.lock();
        state.blocked = None;
        if let Some(waker) = state.unblocked.take() {
            waker.wake();
        }
    }

    /// All that was handed over has been sent.
    pub(super) fn flushed(&self) {
        self.unblocked();
        let mut state = self.lock();
        if state.answered && state.next == Next::Answer {
            state.next = Next::Request;
            state.since = Instant::now();
        }
    }

    /// Waits until the client reads, so that a client that never does has no further answers made for it.
    pub(super) fn readable_by_client(&self) -> impl Future<Output = ()> {
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if state.blocked.is_none() {
                return Poll::Ready(());
            }
            state.unblocked = Some(context.waker().clone());
            Poll::Pending
        })
    }

    /// Since when the connection waits for its client, or for a seat.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let state = self.lock();
        state
            .blocked
            .or((state.next != Next::Answer).then_some(state.since))
    }

    /// Whether the connection waits for its client.
    pub(super) fn is_clients(&self) -> bool {
        let state = self.lock();
        state.blocked.is_some() || !matches!(state.next, Next::Answer | Next::Seat)
    }

    /// Whether the client does not read.
    pub(super) fn is_blocked(&self) -> bool {
        self.lock().blocked.is_some()
    }

    /// When the client's time is over, and the option that says so. Bodies have their limits where they are read.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<(Instant, &'static str)> {
        let state = self.lock();
        let over = |since: Instant, limit: Duration| since.checked_add(limit);
        let (at, option) = match (state.blocked, state.next) {
            (Some(since), _) => (over(since, limits.write), "--write-timeout"),
            (None, Next::Header) => (over(state.since, limits.header), "--header-timeout"),
            (None, Next::Request) => (over(state.since, limits.keep_alive), "--keep-alive-timeout"),
            (None, Next::Body | Next::Seat | Next::Answer) => return None,
        };
        Some((at?, option))
    }

    /// When the request came whose answer a client has to wait for; `None` where nothing is being computed.
    pub(super) fn computes_since(&self) -> Option<Instant> {
        let state = self.lock();
        match state.next {
            Next::Answer if !state.answered => state.arrived,
            Next::Seat => Some(state.since),
            _ => None,
        }
    }
}
