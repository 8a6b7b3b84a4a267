//! One connection, from its handshake to its end.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use hyper::{
    Request,
    body::{Body as _, Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, join, split},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    BUFFER, Limits, Version, framing,
    lookout::{End, Lookout},
    seats::{Seat, Seats},
    turn::Turn,
    wire::{Socket, Wire},
};
use crate::http::{
    AppState,
    error::ApiError,
    fastdeploy,
    limits::give_up,
    oip,
    outgoing::{Outgoing, Unsent},
    probes::is_probe,
};

/// The calls of one gRPC connection at a time; a client opens more connections for more.
const MAX_STREAMS: u32 = 256;
/// How long a silent gRPC connection has to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// What a client of HTTP/2 begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What serves one connection.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) app: Router,
    pub(super) state: AppState,
    pub(super) seats: Arc<Seats>,
    pub(super) seat: Arc<Seat>,
    pub(super) limits: Limits,
    /// Cancelled when idle connections are to be closed.
    pub(super) close: CancellationToken,
}

impl Connection {
    /// The connection to its end; with TLS its handshake first, so that a slow one keeps nobody waiting but itself.
    pub(super) async fn serve(self, version: Version, socket: Socket) {
        let Some(tls) = self.state.config().access.tls.clone() else {
            return self.exchange(version, socket.clone(), socket).await;
        };
        let acceptor = TlsAcceptor::from(match version {
            Version::Http1 => tls.http1(),
            Version::Http2 => tls.http2(),
        });
        let shaken = tokio::select! {
            shaken = timeout(self.limits.header, acceptor.accept(socket.clone())) => shaken,
            () = self.close.cancelled() => return,
            () = self.seat.leave.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.exchange(version, stream, socket).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn exchange(
        self,
        version: Version,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        socket: Socket,
    ) {
        match version {
            Version::Http1 => self.http1(stream, socket).await,
            Version::Http2 => self.http2(stream, socket).await,
        }
    }

    async fn http1(self, stream: impl AsyncRead + AsyncWrite + Unpin, socket: Socket) {
        let turn = Arc::clone(&self.seat.turn);
        let mut lookout = Lookout::new(Arc::clone(&turn), socket.clone(), self.limits);
        let (close, leave) = (self.close.clone(), self.seat.leave.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let connection = self.clone();
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let stream = TokioIo::new(Wire::new(stream, Arc::clone(&turn)));
        let connection = http1::Builder::new()
            // Its time would go on between two requests.
            .header_read_timeout(None)
            // Who has gone is for the look-out to see, which also sees it where bytes follow the request.
            .half_close(true)
            .max_buf_size(BUFFER)
            .serve_connection(stream, service);
        let mut connection = pin!(connection);
        let (mut closes, mut leaves) = (false, false);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => return log_end(result),
                end = poll_fn(|context| lookout.poll(context)) => {
                    match end {
                        End::Gone => tracing::debug!("the client has gone"),
                        End::Late(option) => tracing::debug!(option, "the client took too long"),
                    }
                    return socket.reset_when_unsent(&turn);
                }
                () = leave.cancelled(), if !leaves => {
                    if turn.is_clients() {
                        tracing::debug!("closed for another connection");
                        return socket.reset_when_unsent(&turn);
                    }
                    leaves = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = close.cancelled(), if !closes => {
                    closes = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Answers a request over HTTP/1.
    async fn answer(self, request: Request<Incoming>) -> Response<Outgoing<Answering>> {
        let turn = &self.seat.turn;
        let (parts, body) = request.into_parts();
        turn.begin(!body.is_end_stream());
        let raw = turn.take_header();
        turn.readable_by_client().await;
        let body = Body::new(Arriving {
            body,
            turn: Arc::clone(turn),
        });
        let refusal = match framing::check(&parts.method, &parts.headers, &raw) {
            Err(error) => Some(error),
            Ok(()) if self.may_be_answered(parts.uri.path()).await => None,
            Ok(()) => Some(no_seat()),
        };
        let is_refused = refusal.is_some();
        let mut answer = match refusal {
            Some(error) => {
                let answer = match oip::is_here(parts.uri.path()) {
                    true => oip::refused(error),
                    false => fastdeploy::refused(&parts.uri, &error),
                };
                give_up(&parts, body).await;
                answer
            }
            None => {
                let Ok(answer) = self
                    .app
                    .clone()
                    .call(Request::from_parts(parts, body))
                    .await;
                answer
            }
        };
        let is_over = is_refused || self.seat.is_outside() || self.seat.leave.is_cancelled();
        let is_ending = self.state.is_leaving() || self.state.is_draining();
        if is_over || is_ending || self.seats.wants_back() {
            say_goodbye(&mut answer);
        }
        let guard = Answering(Arc::clone(turn));
        let budget = self.state.budget();
        answer.map(|body| Outgoing::new(body, Arc::clone(budget), guard))
    }

    /// Waits for a seat, if the request needs one.
    async fn may_be_answered(&self, path: &str) -> bool {
        !self.seat.is_outside()
            || is_probe(path)
            || self.seats.wait(&self.seat, self.limits.header).await
    }

    async fn http2(self, stream: impl AsyncRead + AsyncWrite + Unpin, socket: Socket) {
        let (close, leave) = (self.close.clone(), self.seat.leave.clone());
        let limits = self.limits;
        let (mut reading, writing) = split(stream);
        // hyper would wait for it for ever; from then on pings find out who is gone.
        let mut preface = [0; PREFACE.len()];
        let read = tokio::select! {
            read = timeout(limits.header, reading.read_exact(&mut preface)) => read,
            () = close.cancelled() => return,
            () = leave.cancelled() => return,
        };
        if !matches!(read, Ok(Ok(_))) || preface != *PREFACE {
            tracing::debug!("a connection to the gRPC port did not begin as HTTP/2");
            return;
        }
        let stream = join(PREFACE.chain(reading), writing);
        let turn = Arc::clone(&self.seat.turn);
        let calls = Arc::new(Calls::new(Arc::clone(&turn)));
        let of_service = Arc::clone(&calls);
        let service = service_fn(move |request: Request<Incoming>| {
            let connection = self.clone();
            let call = Calling::begin(&of_service);
            async move { Ok::<_, Infallible>(connection.answer_call(request, call).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.header)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(MAX_STREAMS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut looks = interval((limits.write / 4).max(Duration::from_millis(1)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut closes, mut leaves) = (false, false);
        loop {
            tokio::select! {
                biased;
                result = connection.as_mut() => return log_end(result),
                _ = looks.tick() => if calls.stand_still(limits.write) {
                    tracing::debug!(option = "--write-timeout", "the client took too long");
                    return socket.reset_when_closed();
                },
                () = leave.cancelled(), if !leaves => {
                    leaves = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = close.cancelled(), if !closes => {
                    closes = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Answers a call over gRPC.
    async fn answer_call(
        self,
        request: Request<Incoming>,
        call: Calling,
    ) -> Response<Outgoing<Calling>> {
        let answer = match self.may_be_answered(request.uri().path()).await {
            false => oip::grpc::refused(&no_seat()),
            true => {
                let Ok(answer) = self.app.clone().call(request).await;
                answer
            }
        };
        // What is going on over the connection is answered; it takes no other calls.
        if self.seat.is_outside() || self.seats.wants_back() {
            self.seat.leave.cancel();
        }
        let calls = Arc::clone(&call.0);
        let answer = answer.map(|body| Outgoing::new(body, Arc::clone(self.state.budget()), call));
        calls.watch(answer.body().unsent());
        answer
    }
}

fn no_seat() -> ApiError {
    ApiError::Unhealthy("as many connections are open as may be (--max-connections)".into())
}

/// A request's body, which tells the turn when it waits for its client.
struct Arriving {
    body: Incoming,
    turn: Arc<Turn>,
}

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Pending => self.turn.awaits_body(),
            Poll::Ready(_) if self.body.is_end_stream() => self.turn.body_ended(),
            Poll::Ready(Some(_)) => self.turn.body_came(),
            Poll::Ready(None) => self.turn.body_ended(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Dropped when an answer has been handed over.
struct Answering(Arc<Turn>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The calls of a connection over HTTP/2. That a client takes nothing of an answer need not show at its socket: it has
/// windows of its own for each.
struct Calls {
    turn: Arc<Turn>,
    running: AtomicUsize,
    answers: Mutex<Vec<Weak<Unsent>>>,
}

impl Calls {
    fn new(turn: Arc<Turn>) -> Self {
        Self {
            turn,
            running: AtomicUsize::new(0),
            answers: Mutex::default(),
        }
    }

    fn watch(&self, answer: &Arc<Unsent>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|answer| answer.strong_count() > 0);
        answers.push(Arc::downgrade(answer));
    }

    fn stand_still(&self, time: Duration) -> bool {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = answers.iter().filter_map(Weak::upgrade);
        answers.any(|answer| answer.stands_still(time))
    }
}

/// A call, until its answer has been handed over.
struct Calling(Arc<Calls>);

impl Calling {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.running.fetch_add(1, Ordering::AcqRel);
        calls.turn.begin(true);
        Self(Arc::clone(calls))
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.turn.answered();
            self.0.turn.flushed();
        }
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
