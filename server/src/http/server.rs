//! Accepting connections, and closing them in peace.
//!
//! axum's own `serve` has neither a time limit for headers nor a bound on connections, hence this loop on hyper. A port
//! speaks one version: HTTP/1 is what the clients of most protocols speak, gRPC's speak HTTP/2 and have a port of their
//! own. Telling versions apart would have to wait for bytes that a hostile client never sends.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Response, header},
};
use futures::FutureExt;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, join, split},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::{AppState, grpc_router, router};

/// The largest header, and the unit in which bodies are read.
const BUFFER: usize = 64 << 10;
/// How long accepting pauses when the process has run out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The calls of one gRPC connection at a time; a client opens more connections for more.
const MAX_STREAMS: u32 = 256;
/// How long a silent gRPC connection has to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What a client of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    /// For gRPC.
    Http2,
}

/// Serves until `shutdown` resolves; then accepts no more connections, answers what is in flight, finishes accepted
/// jobs, and returns. The engine is to be drained first ([`crate::engine::Engine::drain`]), so that no new work comes
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

struct Server {
    version: Version,
    app: Router,
    state: AppState,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    /// Cancelled when idle connections are to be closed.
    close: CancellationToken,
}

impl Server {
    fn new(version: Version, app: Router, state: AppState) -> Self {
        Self {
            version,
            app,
            slots: Arc::new(Semaphore::new(state.config().max_connections)),
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

    fn spawn(&self, accepted: Option<(TcpStream, OwnedSemaphorePermit)>) {
        if let Some((stream, slot)) = accepted {
            let connection = Connection {
                app: self.app.clone(),
                state: self.state.clone(),
                close: self.close.clone(),
            };
            let version = self.version;
            self.connections.spawn(async move {
                connection.serve(version, stream).await;
                drop(slot);
            });
        }
    }

    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        // The semaphore is never closed.
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it small answers wait for the client's delayed acknowledgement, 40 ms.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                Some((stream, slot))
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

/// What serves one connection.
struct Connection {
    app: Router,
    state: AppState,
    close: CancellationToken,
}

impl Connection {
    /// The connection to its end; with TLS its handshake first, so that a slow one keeps nobody waiting but itself.
    async fn serve(self, version: Version, stream: TcpStream) {
        let Some(tls) = self.state.config().access.tls.clone() else {
            return self.exchange(version, stream).await;
        };
        let acceptor = TlsAcceptor::from(match version {
            Version::Http1 => tls.http1(),
            Version::Http2 => tls.http2(),
        });
        let handshake = timeout(self.state.config().header_timeout, acceptor.accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            () = self.close.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.exchange(version, stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn exchange(self, version: Version, stream: impl AsyncRead + AsyncWrite + Unpin) {
        match version {
            Version::Http1 => self.http1(stream).await,
            Version::Http2 => self.http2(stream).await,
        }
    }

    async fn http1(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let header_timeout = self.state.config().header_timeout;
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let answer = self.app.clone().call(request);
            let state = self.state.clone();
            async move {
                let mut answer = answer.await?;
                if state.is_leaving() || state.is_draining() {
                    say_goodbye(&mut answer);
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.close.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        log_end(result);
    }

    async fn http2(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let patience = self.state.config().header_timeout;
        let (mut reading, writing) = split(stream);
        // hyper would wait for it for ever; from then on pings find out who is gone.
        let mut preface = [0; PREFACE.len()];
        let read = tokio::select! {
            read = timeout(patience, reading.read_exact(&mut preface)) => read,
            () = self.close.cancelled() => return,
        };
        if !matches!(read, Ok(Ok(_))) || preface != *PREFACE {
            tracing::debug!("a connection to the gRPC port did not begin as HTTP/2");
            return;
        }
        let stream = join(PREFACE.chain(reading), writing);
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            self.app.clone().call(request)
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(patience)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.close.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        log_end(result);
    }
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        // Clients hang up, time out and send nonsense all day long.
        tracing::debug!(%error, "connection ended");
    }
}

fn say_goodbye<B>(answer: &mut Response<B>) {
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
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
            kind: "cpu".into(),
            recipes: vec![recipe],
            batches_in_flight: std::num::NonZeroUsize::MIN,
        };
        let registry = Arc::new(Registry::new().unwrap());
        let engine = Engine::start(vec![device], &EngineConfig::default(), &registry).unwrap();
        let state = AppState::new(engine, registry, HttpConfig::default());
        let server = Server::new(Version::Http1, Router::new(), state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(connecting, server.accept(&listener));
        let (stream, _slot) = accepted.unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
