//! Requests one by one, for who sends them at times of its own.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{Request, Uri};

use super::{
    LoadGenerator, Payloads, Threads, answer::Failure, attack, link::Link, payload::Encoder,
};
use crate::error::Result;

/// The requests that a corpus makes, in turn and without end.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    infer: Uri,
    encoder: Arc<Encoder>,
    examples: usize,
    batch: usize,
}

impl LoadGenerator {
    /// Requests of so many examples each, and connections opened for as many.
    ///
    /// # Errors
    /// The server's URL cannot be asked for.
    pub(crate) fn requests(
        &self,
        payloads: &Payloads,
        batch: usize,
        connections: usize,
    ) -> Result<Requests> {
        self.runtime.block_on(self.connect(connections))?;
        Ok(Requests {
            infer: payloads.encoder.uri(&self.target.infer)?,
            encoder: payloads.encoder.clone(),
            examples: payloads.examples,
            batch,
        })
    }

    /// The threads that send them.
    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }
}

impl Requests {
    /// The request of a number.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn build(&self, number: usize) -> Result<Request<Bytes>> {
        let requests = (self.examples / self.batch).max(1);
        let first = number % requests * self.batch;
        let examples = first..first + self.batch;
        self.encoder.request(&self.infer, examples)
    }

    /// Sends one and waits until its answer has been read and judged.
    pub(crate) async fn send(&self, link: &Link, request: Request<Bytes>) -> Result<(), Failure> {
        attack::send(link, request, &self.encoder, self.batch).await
    }
}
