//! Looks after a connection of HTTP/1 beside what hyper does on it: ends it when its client's time is over, or when the client
//! has gone while its answer is computed.
//!
//! The end of a client's stream means either of two things: that it has gone, or that it sends nothing more and still reads
//! (`nc -N`, `socat`). TCP says the same of both. So it is its moment that counts: what comes with the request is part of
//! it, and the request is answered; what comes later is a client that has given up, and its items leave the queue. A reset is
//! always that.

use std::{
    io,
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
    /// The request that came with the end of its client's stream, by the moment that it had come.
    half_closed: Option<Instant>,
}

impl Lookout {
    pub(super) fn new(turn: Arc<Turn>, socket: Socket, limits: Limits) -> Self {
        Self {
            turn,
            socket,
            alarm: Box::pin(sleep(limits.header)),
            pause: Box::pin(sleep(PAUSE)),
            limits,
            half_closed: None,
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
        loop {
            let client = match self.look(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(client) => client,
            };
            match client {
                Client::Gone => return Poll::Ready(End::Gone),
                Client::Ended if self.half_closed == Some(arrived) => {}
                Client::Ended if arrived.elapsed() <= self.limits.half_close => {
                    self.half_closed = Some(arrived);
                }
                Client::Ended => return Poll::Ready(End::Gone),
                Client::There => {}
            }
            if self.pause.is_elapsed() {
                self.pause.as_mut().reset(Instant::now() + PAUSE);
            }
            if self.pause.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// How the client is, as soon as there is anything to see.
    fn look(&self, context: &mut Context<'_>) -> Poll<Client> {
        let socket = self.socket.lock();
        match socket.poll_read_ready(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => return Poll::Ready(Client::Gone),
            Poll::Ready(Ok(())) => {}
        }
        let seen = socket.ready(Interest::READABLE | Interest::WRITABLE | Interest::ERROR);
        Poll::Ready(match seen.now_or_never() {
            Some(Ok(seen)) if seen.is_error() || seen.is_write_closed() => Client::Gone,
            Some(Ok(seen)) if seen.is_read_closed() => Client::Ended,
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Client::Gone,
            _ => Client::There,
        })
    }
}

/// What a socket shows of its client.
enum Client {
    There,
    /// It sends nothing more.
    Ended,
    Gone,
}
