//! Requests one by one, for who sends them at times of its own.

use std::sync::Arc;

use reqwest::{Client, RequestBuilder, Url};
use tokio::runtime::Runtime;

use super::{LoadGenerator, Payloads, answer::Failure, attack, payload::Encoder};
use crate::error::Result;

/// The requests that a corpus makes, in turn and without end.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    client: Client,
    infer: Url,
    encoder: Arc<Encoder>,
    examples: usize,
    batch: usize,
}

impl LoadGenerator {
    /// Requests of so many examples each, and as many connections opened for them.
    pub(crate) fn requests(
        &self,
        payloads: &Payloads,
        batch: usize,
        connections: usize,
    ) -> Requests {
        self.runtime.block_on(self.connect(connections));
        Requests {
            client: self.client.clone(),
            infer: self.target.infer.clone(),
            encoder: payloads.encoder.clone(),
            examples: payloads.examples,
            batch,
        }
    }

    /// What sends them.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

impl Requests {
    /// The request of a number.
    ///
    /// # Errors
    /// The corpus cannot be read.
    pub(crate) fn build(&self, number: usize) -> Result<RequestBuilder> {
        let requests = (self.examples / self.batch).max(1);
        let first = number % requests * self.batch;
        let examples = first..first + self.batch;
        self.encoder.request(&self.client, &self.infer, examples)
    }

    /// Sends one and waits until its answer has been read and judged.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<(), Failure> {
        attack::send(request, &self.encoder, self.batch).await
    }
}
