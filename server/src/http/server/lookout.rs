//! Looks after a connection of HTTP/1 beside what hyper does on it: ends it when its client's time is over, or when the client
//! has gone while its answer is computed.
//!
//! The end of a client's stream means either of two things: that it has gone, or that it sends nothing more and still reads
//! (`nc -N`, `socat`). TCP says the same of both. So it is its moment that counts: what comes with the request is part of
//! it, and the request is answered; what comes later is a client that has given up, and its items leave the queue. A reset is
//! always that.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    io::Interest,
    time::{Instant, Sleep, sleep},
};

use super::{Limits, turn::Turn, wire::Socket};

/// Between two looks at a client that cannot be waited for, as bytes of it lie there unread.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client's time is over, by this option.
    Late(&'static str),
    /// The client has gone.
    Gone,
}

pub(super) struct Lookout {
    turn: Arc<Turn>,
    socket: Socket,
    limits: Limits,
    alarm: Pin<Box<Sleep>>,
    pause: Pin<Box<Sleep>>,
    /// The request that is looked at, by the moment that it had come.
    request: Option<Instant>,
    half: Half,
}

impl Lookout {
    pub(super) fn new(turn: Arc<Turn>, socket: Socket, limits: Limits) -> Self {
        Self {
            turn,
            socket,
            alarm: Box::pin(sleep(limits.header)),
            pause: Box::pin(sleep(PAUSE)),
            limits,
            request: None,
            half: Half::Open,
        }
    }

    /// To be polled after the connection, by the same task: all that changes the turn happens there.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        while let Some((deadline, option)) = self.turn.deadline(&self.limits) {
            if deadline <= Instant::now() {
                return Poll::Ready(End::Late(option));
            }
            // An alarm that is too early looks again; so one alarm does for many requests.
            if self.alarm.is_elapsed() || self.alarm.deadline() > deadline {
                self.alarm.as_mut().reset(deadline);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                break;
            }
        }
        match self.turn.computes_since() {
            Some(arrived) => self.poll_gone(arrived, context),
            None => Poll::Pending,
        }
    }

    fn poll_gone(&mut self, arrived: Instant, context: &mut Context<'_>) -> Poll<End> {
        let window = self.limits.half_close;
        if self.request != Some(arrived) {
            self.request = Some(arrived);
            self.half = match window.is_zero() {
                true => Half::Past,
                false => Half::Open,
            };
        }
        loop {
            let client = self.look(context);
            match client {
                Client::Gone => return Poll::Ready(End::Gone),
                Client::Ended if self.half == Half::Past => return Poll::Ready(End::Gone),
                Client::Ended => self.half = Half::Closed,
                // Only what is seen counts: on a busy machine it may be late.
                Client::There | Client::Silent
                    if self.half == Half::Open && arrived.elapsed() >= window =>
                {
                    self.half = Half::Past;
                }
                Client::There | Client::Silent => {}
            }
            let next = match (client, self.half) {
                (_, Half::Open) => arrived + window,
                (Client::Silent, _) => return Poll::Pending,
                _ => Instant::now() + PAUSE,
            };
            if self.pause.is_elapsed() || self.pause.deadline() > next {
                self.pause.as_mut().reset(next);
            }
            if self.pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// How the client is. If it is silent, the task is woken when it is not any more.
    fn look(&self, context: &mut Context<'_>) -> Client {
        let socket = self.socket.lock();
        match socket.poll_read_ready(context) {
            Poll::Pending => return Client::Silent,
            Poll::Ready(Err(_)) => return Client::Gone,
            Poll::Ready(Ok(())) => {}
        }
        let seen = socket.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR);
        match seen.now_or_never() {
            Some(Ok(seen)) if seen.is_error() || seen.is_write_closed() => Client::Gone,
            Some(Ok(seen)) if seen.is_read_closed() => Client::Ended,
            Some(Err(_)) => Client::Gone,
            Some(Ok(_)) | None => Client::There,
        }
    }
}

/// What a socket shows of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// It has sent nothing more.
    Silent,
    /// It has sent something that is not read.
    There,
    /// It sends nothing more.
    Ended,
    Gone,
}

/// Whether a request came with half a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    /// It may come still.
    Open,
    Closed,
    /// The end of the client's stream would be its leaving.
    Past,
}
