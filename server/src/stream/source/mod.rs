//! Where messages come from.

mod lines;
pub mod list;
pub mod nats;

use std::time::Duration;

use futures::future::BoxFuture;

use super::message::Message;
pub use super::message::SourceError;

/// What a source gives.
#[derive(Debug)]
pub enum Pulled {
    /// Messages, at least one.
    Messages(Vec<Message>),
    /// There are no more, and what was given back has been delivered again.
    Ended,
}

/// A source of messages: delivers each at least once, until it is acknowledged.
pub trait Source: Send {
    /// Waits for messages, and gives at most `room` of them (at least 1).
    ///
    /// The future may be dropped at any time: what it had taken comes with the next pull, or is given back.
    fn pull(&mut self, room: usize) -> BoxFuture<'_, Result<Pulled, SourceError>>;

    /// No more is pulled: what was taken and has not been delivered is given back, while what was goes on.
    fn stop(&mut self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async { Ok(()) })
    }

    /// Nothing more is in hand, and no receipt is used any more.
    fn close(&mut self) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async { Ok(()) })
    }

    /// After how long a message that is neither acknowledged nor renewed is delivered again; none if never.
    fn ack_wait(&self) -> Option<Duration> {
        None
    }
}
