//! Accepting connections, and closing them in peace.
//!
//! axum's own `serve` has neither a time limit for headers nor a bound on connections, hence this loop on hyper. A port
//! speaks one version: HTTP/1 is what the clients of most protocols speak, gRPC's speak HTTP/2 and have a port of their
//! own. Telling versions apart would have to wait for bytes that a hostile client never sends.
//!
//! [`seats`] says who may be connected, [`connection`] serves one; [`turn`] knows whom a connection waits for, which [`wire`]
//! tells it and [`lookout`] acts on; [`framing`] refuses what could be read in two ways.

mod connection;
mod framing;
mod lookout;
mod seats;
mod turn;
mod wire;

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use futures::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::Connection,
    seats::{Seated, Seats},
    wire::Socket,
};
use super::{AppState, HttpConfig, grpc_router, probes_router, router};

/// The largest header, and the unit in which bodies are read.
const BUFFER: usize = 64 << 10;
/// How long accepting pauses when the process has run out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    /// For gRPC.
    Http2,
}

/// Serves until `shutdown` resolves; then accepts no more connections, answers what is in flight, finishes accepted
/// jobs or gives them back to their table, and returns. The engine is to be drained first ([`crate::engine::Engine::drain`]), so that no new work comes
/// in over the connections that are open; how long to wait is the caller's to decide, by dropping this future.
///
/// # Errors
/// The listener's address cannot be read; afterwards none, as failures to accept are tried again.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let server = Server::new(Version::Http1, router(state.clone()), state.clone());
    tracing::debug!(address = %listener.local_addr()?, "listening");
    let serve = async {
        server.accept_until(listener, shutdown).await;
        server.finish().await;
        state.jobs().finish().await;
    };
    tokio::select! {
        () = serve => Ok(()),
        () = every_second(&state) => Ok(()),
        () = state.jobs().keep(&state) => Ok(()),
    }
}

/// Serves gRPC as [`serve`] does HTTP, beside which it runs. Streams end when the engine begins to drain.
///
/// # Errors
/// As [`serve`].
pub async fn serve_grpc(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let server = Server::new(Version::Http2, grpc_router(state.clone()), state);
    tracing::debug!(address = %listener.local_addr()?, "listening for gRPC");
    server.accept_until(listener, shutdown).await;
    server.finish().await;
    Ok(())
}

/// Serves liveness, readiness and metrics, as [`serve`] does everything.
///
/// # Errors
/// None, as failures to accept are tried again.
pub async fn serve_probes(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let server = Server::new(Version::Http1, probes_router(state.clone()), state.clone());
    let serve = async {
        server.accept_until(listener, shutdown).await;
        server.finish().await;
    };
    tokio::select! {
        () = serve => Ok(()),
        () = every_second(&state) => Ok(()),
    }
}

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    header: Duration,
    keep_alive: Duration,
    write: Duration,
    half_close: Duration,
}

impl Limits {
    fn of(config: &HttpConfig) -> Self {
        Self {
            header: config.header_timeout,
            keep_alive: config.keep_alive_timeout,
            write: config.write_timeout,
            half_close: config.half_close,
        }
    }
}

struct Server {
    version: Version,
    app: Router,
    state: AppState,
    seats: Arc<Seats>,
    connections: TaskTracker,
    /// Cancelled when idle connections are to be closed.
    close: CancellationToken,
}

impl Server {
    fn new(version: Version, app: Router, state: AppState) -> Self {
        Self {
            version,
            app,
            seats: Seats::new(state.config().max_connections, Arc::clone(state.registry())),
            state,
            connections: TaskTracker::new(),
            close: CancellationToken::new(),
        }
    }

    async fn accept_until(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = self.accept(&listener) => accepted,
            };
            self.spawn(accepted);
        }
        // Closing the listener resets the connections that wait to be accepted; these get to read why.
        while let Some(accepted) = self.accept(&listener).now_or_never() {
            self.spawn(accepted);
        }
    }

    fn spawn(&self, accepted: Option<(TcpStream, Seated)>) {
        if let Some((stream, seated)) = accepted {
            let connection = Connection {
                app: self.app.clone(),
                limits: Limits::of(self.state.config()),
                state: self.state.clone(),
                seats: Arc::clone(&self.seats),
                seat: Arc::clone(&seated.seat),
                close: self.close.clone(),
            };
            let version = self.version;
            self.connections.spawn(async move {
                connection.serve(version, Socket::new(stream)).await;
                drop(seated);
            });
        }
    }

    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, Seated)> {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it small answers wait for the client's delayed acknowledgement, 40 ms.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                Some((stream, self.seats.enter().await))
            }
            Err(error) => {
                let of_one_client = matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                );
                if !of_one_client {
                    tracing::error!(%error, "cannot accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
                None
            }
        }
    }

    async fn finish(&self) {
        self.connections.close();
        tokio::select! {
            () = self.connections.wait() => {}
            () = sleep(self.state.config().drain_linger) => self.close.cancel(),
        }
        self.connections.wait().await;
    }
}

/// Never returns.
async fn every_second(state: &AppState) {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        state.upkeep();
    }
}

#[cfg(test)]
mod tests {
    use galley_core::LoadOptions;

    use super::*;
    use crate::{
        engine::{Device, Engine, EngineConfig},
        http::HttpConfig,
        metrics::Registry,
    };

    /// What it is good for cannot be timed on a machine that is busy.
    #[tokio::test]
    async fn answers_do_not_wait_for_acknowledgements() {
        let recipe = galley_catalog::load("echo", &LoadOptions::default()).unwrap();
        let device = Device {
            name: "cpu".into(),
            recipes: vec![recipe],
            batches_in_flight: std::num::NonZeroUsize::MIN,
            beside: false,
        };
        let registry = Arc::new(Registry::new().unwrap());
        let engine = Engine::start(vec![device], &EngineConfig::default(), &registry).unwrap();
        let state = AppState::new(engine, registry, HttpConfig::default());
        let server = Server::new(Version::Http1, Router::new(), state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(connecting, server.accept(&listener));
        let (stream, _seated) = accepted.unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
