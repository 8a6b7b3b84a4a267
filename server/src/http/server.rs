//! Accepting connections, and closing them in peace.
//!
//! axum's own `serve` has neither a time limit for headers nor a bound on connections, hence this loop on hyper. Only
//! HTTP/1 is spoken: it is what the clients speak, and telling versions apart would have to wait for bytes that a
//! hostile client never sends.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, Response, header},
};
use futures::FutureExt;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

use super::{AppState, router};

/// The largest header, and the unit in which bodies are read.
const BUFFER: usize = 64 << 10;
/// How long accepting pauses when the process has run out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long idle connections stay open in a drain: who sends a request by then reads that the server is going away,
/// where a connection closed at once would look like a failure.
const LINGER: Duration = Duration::from_millis(500);

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
    tracing::debug!(address = %listener.local_addr()?, "listening");
    let server = Server {
        app: router(state.clone()),
        state: state.clone(),
        slots: Arc::new(Semaphore::new(state.config().max_connections)),
        connections: TaskTracker::new(),
        close: CancellationToken::new(),
    };
    let upkeep = async {
        tokio::join!(state.watch_for_draining(), every_second(&state));
    };
    let serve = async {
        server.accept_until(listener, shutdown).await;
        server.finish().await;
    };
    tokio::select! {
        () = serve => Ok(()),
        () = upkeep => Ok(()),
    }
}

struct Server {
    app: Router,
    state: AppState,
    slots: Arc<Semaphore>,
    connections: TaskTracker,
    /// Cancelled when idle connections are to be closed.
    close: CancellationToken,
}

impl Server {
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
            self.connections.spawn(connection(
                stream,
                slot,
                self.app.clone(),
                self.state.clone(),
                self.close.clone(),
            ));
        }
    }

    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        // The semaphore is never closed.
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        match listener.accept().await {
            Ok((stream, _)) => Some((stream, slot)),
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
            () = sleep(LINGER) => self.close.cancel(),
        }
        self.connections.wait().await;
        self.state.jobs().finish().await;
    }
}

async fn connection(
    stream: TcpStream,
    slot: OwnedSemaphorePermit,
    app: Router,
    state: AppState,
    close: CancellationToken,
) {
    // Without it small answers wait for the client's delayed acknowledgement, 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let header_timeout = state.config().header_timeout;
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let answer = app.clone().call(request);
        let state = state.clone();
        async move {
            let mut answer = answer.await?;
            if state.is_draining() {
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
        () = close.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients hang up, time out and send nonsense all day long.
        tracing::debug!(%error, "connection ended");
    }
    drop(slot);
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
