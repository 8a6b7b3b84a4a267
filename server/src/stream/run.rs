//! The command: opens the table, starts the engine, works until the source ends, and says what it came to.

use std::{
    fs::File,
    io::{BufReader, Write, stdin},
    sync::Arc,
};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::{
    config::{SourceConfig, StreamConfig},
    fetch::Fetcher,
    guard::resolver::PublicOnly,
    outcome::Outcome,
    source::{Source, list::List, nats::Nats},
    table::{Postgres, Sqlite, Table},
    tally::Tally,
    worker::{Worker, keeper},
};
use crate::{
    database::Address,
    engine::{Device, Engine},
    http::{self, AppState, HttpConfig},
    metrics::Registry,
    serve::bind,
    signals::Signals,
};

/// Opens the table, or makes it.
///
/// # Errors
/// It cannot be written or is none, or the weights that its rows are of cannot be read.
pub async fn open(config: &StreamConfig) -> anyhow::Result<Arc<dyn Table>> {
    let own = config.clone();
    // Reading weights takes a while.
    let scope = tokio::task::spawn_blocking(move || own.scope()).await??;
    tracing::info!(
        recipe = scope.recipe,
        revision = scope.revision,
        "writing rows"
    );
    match &config.table {
        Address::Sqlite(path) => Ok(Arc::new(Sqlite::open(path, scope)?)),
        Address::Postgres(address) => Ok(Arc::new(Postgres::open(*address.clone(), scope).await?)),
    }
}

/// Works until the source ends or a signal comes.
///
/// # Errors
/// Something was given up, or nothing more can be done.
pub async fn run(
    config: StreamConfig,
    table: Arc<dyn Table>,
    devices: Vec<Device>,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let registry = Arc::new(Registry::new().context("cannot set up metrics")?);
    let engine = Engine::start(devices, &config.engine, &registry)
        .context("cannot start the device threads")?;
    #[cfg(feature = "cuda")]
    crate::nvidia::watch(&config.model.devices, &registry);
    let state = AppState::new(
        Arc::clone(&engine),
        Arc::clone(&registry),
        HttpConfig::default(),
    );
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    if let Some(address) = config.metrics_address {
        let (listener, address) = bind(address).await?;
        tracing::info!(%address, "serving metrics");
        let probes = http::serve_probes(listener, state.clone(), stop.cancelled_owned());
        tokio::spawn(probes);
    }
    tokio::select! {
        ready = engine.ready() => if let Err(reason) = ready {
            bail!("{reason}");
        },
        () = signals.end() => return Ok(()),
    }

    let served = engine.recipes().first().context("no recipe")?;
    let tally = Arc::new(Tally::new(registry.stream(config.entry.name)));
    let source = source(&config, &table, &tally).await?;
    let fetcher = Fetcher::new(config.guard, config.fetch, PublicOnly::of_system())?;
    let ack_wait = source.ack_wait();
    let store = (Arc::clone(&table), Arc::clone(&tally));
    let worker = Worker::new(Arc::clone(served), fetcher, config.work, store, ack_wait);
    let keeping = tokio::spawn(keeper::run(Arc::clone(&worker), registry, ack_wait));
    let worked = worker.run(source, &mut signals, config.drain_timeout).await;
    keeping.abort();
    state.leave();
    // Nobody may be reading.
    let summary = tally.summary(worker.time(), config.price_per_hour);
    let _ = writeln!(std::io::stdout(), "{summary}");
    worked?;
    table.close().await?;
    engine.shut_down().await;
    match tally.count(Outcome::GaveUp) {
        0 => Ok(()),
        count => bail!("{count} messages were given up; their rows say why"),
    }
}

async fn source(
    config: &StreamConfig,
    table: &Arc<dyn Table>,
    tally: &Arc<Tally>,
) -> anyhow::Result<Box<dyn Source>> {
    let kind = config.entry.input_kind;
    let (table, tally) = (Arc::clone(table), Arc::clone(tally));
    let list = match &config.source {
        SourceConfig::Stdin => List::new(BufReader::new(stdin()), kind, table, tally),
        SourceConfig::File(path) => {
            let file =
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            List::new(BufReader::new(file), kind, table, tally)
        }
        SourceConfig::Nats(address, consumer) => {
            return Ok(Box::new(Nats::open(address, consumer, kind, tally).await?));
        }
    };
    Ok(Box::new(list.context("cannot start a thread")?))
}
