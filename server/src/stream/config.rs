//! `galley stream` as validated: what is wrong with it is found before anything is loaded.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use galley_core::Entry;

use super::{
    StreamArgs,
    broker::{self, Address, setup},
    fetch::FetchLimits,
    guard::Guard,
    row::Scope,
};
use crate::{
    config::{self, ModelConfig},
    database,
    engine::EngineConfig,
    stream::revision::revision,
};

/// Where messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// Lines of stdin.
    Stdin,
    /// Lines of a file.
    File(PathBuf),
    /// A stream of NATS JetStream, and the name of its consumer.
    Nats(Address, String),
}

/// What `galley stream` runs with.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// The recipe.
    pub entry: &'static Entry,
    /// How it is loaded.
    pub model: ModelConfig,
    /// The engine's settings.
    pub engine: EngineConfig,
    /// Batches that a device has in hand at once; `None` is what suits it.
    pub batches_in_flight: Option<NonZeroUsize>,
    /// Where messages come from.
    pub source: SourceConfig,
    /// Where rows go.
    pub table: database::Address,
    /// What may be fetched.
    pub guard: Guard,
    /// Limits on what is fetched.
    pub fetch: FetchLimits,
    /// How messages are worked on.
    pub work: WorkConfig,
    /// Where metrics are served, if at all.
    pub metrics_address: Option<SocketAddr>,
    /// What an hour of this machine costs.
    pub price_per_hour: Option<f64>,
    /// How long finishing what is in hand may take.
    pub drain_timeout: Duration,
}

/// How messages are worked on.
#[derive(Clone, Debug)]
pub struct WorkConfig {
    /// How often a message is tried.
    pub attempts: u32,
    /// How long after each attempt that failed the next one is made; not empty.
    pub retry_delays: Vec<Duration>,
    /// The most inputs that are fetched at a time.
    pub fetches: usize,
    /// The most messages that are in hand.
    pub max_in_hand: usize,
}

impl StreamConfig {
    /// Validates what was typed.
    ///
    /// # Errors
    /// A value makes no sense or names what does not exist; the message says which and what was expected.
    pub fn new(args: &StreamArgs) -> anyhow::Result<Self> {
        let entry = galley_catalog::find(&args.recipe)?;
        ensure!(
            !args.fetch_timeout.is_zero(),
            "--fetch-timeout: expected a time above 0"
        );
        ensure!(
            args.price_per_hour
                .is_none_or(|price| price.is_finite() && price >= 0.0),
            "--price-per-hour: expected a number of at least 0"
        );
        ensure!(
            !args.retry_delays.is_empty(),
            "--retry-delays: expected a time"
        );
        let source = source(args)?;
        // Whoever wrote the list could read these files anyway; a broker's messages are somebody else's.
        let any_file = matches!(source, SourceConfig::Stdin | SourceConfig::File(_));
        Ok(Self {
            model: ModelConfig::new(&args.model, &[entry])?,
            entry,
            engine: config::engine(&args.batching),
            batches_in_flight: args.batching.batches_in_flight,
            source,
            table: database::Address::parse("--to", &args.to)?,
            guard: Guard::new(&args.allow, any_file)?,
            fetch: FetchLimits {
                max_body: args.max_body.as_u64(),
                max_buffered: args.max_buffered.as_u64(),
                timeout: args.fetch_timeout,
            },
            work: WorkConfig {
                attempts: args.attempts.get(),
                retry_delays: args.retry_delays.clone(),
                fetches: args.fetches.get(),
                max_in_hand: args.max_in_hand.get(),
            },
            metrics_address: args
                .metrics_port
                .map(|port| args.host.address(port))
                .transpose()?,
            price_per_hour: args.price_per_hour,
            drain_timeout: args.drain_timeout,
        })
    }

    /// What all rows have in common. Reads the weights, which takes a while.
    ///
    /// # Errors
    /// There are none.
    pub fn scope(&self) -> anyhow::Result<Scope> {
        let device = self.model.devices.first().context("no device")?;
        let options = self.model.load_options(self.entry.name, device);
        Ok(Scope {
            recipe: self.entry.name.into(),
            revision: revision(self.entry, &options)?,
            worker: database::own_name(),
        })
    }
}

fn source(args: &StreamArgs) -> anyhow::Result<SourceConfig> {
    let from = &args.from;
    if broker::is_address(from) {
        let consumer = setup::consumer_name(args.consumer.as_deref(), &args.recipe)?;
        return Ok(SourceConfig::Nats(
            from.parse().context("--from")?,
            consumer,
        ));
    }
    ensure!(
        args.consumer.is_none(),
        "--consumer: only a stream of NATS has one"
    );
    // What is an address may hold a password, and is not repeated.
    if let Some((scheme, _)) = from.split_once("://") {
        bail!("--from: expected a file, - or nats://HOST/STREAM, got {scheme}://...");
    }
    if from == "-" {
        return Ok(SourceConfig::Stdin);
    }
    let path = PathBuf::from(from);
    ensure!(
        path.exists() && !path.is_dir(),
        "--from: expected a file, - or nats://HOST/STREAM, got {from:?}, which is none"
    );
    Ok(SourceConfig::File(path))
}
