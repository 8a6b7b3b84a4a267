//! Getting what a URI names: within the guard, within a size and a time, and within a budget of bytes that all inputs in
//! memory share. It is taken from before anything is read, all at once, so that nobody waits while holding a part.

mod bucket;
mod budget;
mod file;
mod web;

use std::time::Duration;

use bytes::Bytes;

use self::bucket::Buckets;
pub use self::budget::{Budget, Held};
use super::guard::{Guard, Location, Refusal, resolver::PublicOnly};

/// Limits on what is fetched.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// The most bytes of an input (`--max-body`).
    pub max_body: u64,
    /// The most bytes of all inputs in memory (`--max-buffered`).
    pub max_buffered: u64,
    /// How long a server may take to answer, and again to send what it has (`--fetch-timeout`).
    pub timeout: Duration,
}

/// An input, and its share of the budget.
#[derive(Debug)]
pub struct Fetched {
    /// What it is.
    pub bytes: Bytes,
    /// Which version of it.
    pub etag: Option<String>,
    /// To be dropped with the bytes.
    pub held: Held,
}

/// Why an input is not there. Messages are for rows and logs: no query of a URI is in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// It never will be.
    #[error("{0}")]
    Refused(String),
    /// It may be another time.
    #[error("{0}")]
    Passing(String),
}

impl From<Refusal> for FetchError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

/// Fetches inputs.
#[derive(Debug)]
pub struct Fetcher {
    guard: Guard,
    limits: FetchLimits,
    budget: Budget,
    web: reqwest::Client,
    buckets: Buckets,
}

impl Fetcher {
    /// Fetches what the guard lets through; names are looked up by `resolver`.
    ///
    /// # Errors
    /// There is no TLS.
    pub fn new(guard: Guard, limits: FetchLimits, resolver: PublicOnly) -> anyhow::Result<Self> {
        Ok(Self {
            guard,
            limits,
            budget: Budget::new(limits.max_buffered.max(limits.max_body)),
            web: web::client(resolver, limits.timeout)?,
            buckets: Buckets::new(limits.timeout),
        })
    }

    /// The bytes in memory.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Gets what a URI or path names.
    ///
    /// # Errors
    /// It is not there, not allowed, too large, or cannot be had now.
    pub async fn fetch(&self, uri: &str) -> Result<Fetched, FetchError> {
        match self.guard.judge(uri)? {
            Location::File(path) => self.file(path).await,
            Location::Http(url) => self.web(url).await,
            Location::Bucket(url) => self.bucket(&url).await,
        }
    }

    /// Takes the bytes of an input from the budget.
    async fn reserve(&self, bytes: u64) -> Result<Held, FetchError> {
        let max = self.limits.max_body;
        match bytes <= max {
            true => Ok(self.budget.take(bytes).await),
            false => Err(too_large(max)),
        }
    }

    /// Waits for what a server does, but not for ever.
    async fn in_time<T, E: Into<FetchError>>(
        &self,
        what: impl Future<Output = Result<T, E>>,
    ) -> Result<T, FetchError> {
        match tokio::time::timeout(self.limits.timeout, what).await {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err(FetchError::Passing("timeout (--fetch-timeout)".into())),
        }
    }
}

fn too_large(max: u64) -> FetchError {
    FetchError::Refused(format!("larger than {max} bytes (--max-body)"))
}

#[cfg(test)]
mod tests;
