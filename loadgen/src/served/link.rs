//! How one thread's requests reach the server: over connections that no other thread has.
//!
//! Plain HTTP goes over hyper's own connections, of which a request has one to itself. reqwest, which the rest of the program asks with,
//! puts redirects, a pool and copies of the request between, which take half as much CPU time again. TLS, and passwords in URLs, are
//! left to it.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Uri,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use reqwest::{Client, Url};
use tokio::net::TcpStream;

use super::{answer::Failure, target::cause};
use crate::error::{Error, Result};

/// What the client calls itself.
pub(super) const AGENT: &str = "galley-bench";

/// A thread's way to the server.
#[derive(Debug)]
pub(crate) enum Link {
    /// Plain HTTP.
    Plain(Plain),
    /// What takes more than that.
    Other(Client),
}

/// Connections over plain HTTP, opened where there is none to spare.
#[derive(Debug)]
pub(crate) struct Plain {
    addresses: Vec<SocketAddr>,
    host: HeaderValue,
    timeout: Duration,
    /// Those without a request.
    idle: Mutex<Vec<Connection>>,
}

type Connection = SendRequest<Full<Bytes>>;

impl Link {
    /// A way to the server of this URL, on which a request may take so long.
    ///
    /// # Errors
    /// The server's name is not known, or there is no TLS.
    pub(crate) fn new(url: &Url, timeout: Duration) -> Result<Self> {
        if url.scheme() != "http" || !url.username().is_empty() {
            return super::client(timeout).map(Self::Other);
        }
        let bad = |reason: String| Error::Target {
            url: url.to_string(),
            reason,
        };
        let addresses = url.socket_addrs(|| None);
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        Ok(Self::Plain(Plain {
            addresses: addresses.map_err(|error| bad(error.to_string()))?,
            host: HeaderValue::try_from(host).map_err(|error| bad(error.to_string()))?,
            timeout,
            idle: Mutex::default(),
        }))
    }

    /// Sends a request, whose URI is absolute, and reads the answer to its end: its status and its body.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<(u16, Bytes), Failure> {
        match self {
            Self::Plain(plain) => tokio::time::timeout(plain.timeout, plain.send(request))
                .await
                .unwrap_or(Err(Failure::Timeout)),
            Self::Other(client) => through(client, request).await.map_err(|error| {
                if error.is_timeout() {
                    Failure::Timeout
                } else {
                    Failure::Connection
                }
            }),
        }
    }

    /// Asks for a document and leaves it at that: afterwards there is a connection to spare.
    pub(super) async fn touch(&self, uri: &Uri) {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = uri.clone();
        // Where this fails, so will what is counted.
        let _ = self.send(request).await;
    }
}

impl Plain {
    async fn send(&self, request: Request<Bytes>) -> Result<(u16, Bytes), Failure> {
        let mut request = request.map(Full::new);
        if let Some(path) = request.uri().path_and_query() {
            *request.uri_mut() = Uri::from(path.clone());
        }
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        loop {
            let (mut connection, used) = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    let body = answer.into_body().collect().await;
                    let body = body.map_err(|_| Failure::Connection)?.to_bytes();
                    self.idle().push(connection);
                    return Ok((status, body));
                }
                // The server may close what it has not been asked on for long: that is no failure of a request that was never sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if used => request = unsent,
                    _ => return Err(Failure::Connection),
                },
            }
        }
    }

    /// A connection that takes a request, and whether it has had one before.
    async fn connection(&self) -> Result<(Connection, bool), Failure> {
        loop {
            let Some(mut connection) = self.idle().pop() else {
                let connection = self.open().await.map_err(|error| {
                    tracing::debug!(error = cause(&*error), "cannot connect");
                    Failure::Connection
                });
                return connection.map(|connection| (connection, false));
            };
            if connection.ready().await.is_ok() {
                return Ok((connection, true));
            }
        }
    }

    async fn open(&self) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(&*self.addresses).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its connection, whose requests are told of its errors.
        tokio::spawn(driver);
        Ok(connection)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn through(client: &Client, request: Request<Bytes>) -> reqwest::Result<(u16, Bytes)> {
    let (parts, body) = request.into_parts();
    let request = client.request(parts.method, parts.uri.to_string());
    let answer = request.headers(parts.headers).body(body).send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.bytes().await?))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request a connection.
    async fn serve(listener: TcpListener) {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_opened_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/infer", listener.local_addr().unwrap());
        tokio::spawn(serve(listener));
        let url = Url::parse(&url).unwrap();
        let Link::Plain(plain) = Link::new(&url, Duration::from_secs(60)).unwrap() else {
            panic!("expected a plain link");
        };
        for _ in 0..3 {
            let mut request = Request::new(Bytes::new());
            *request.uri_mut() = url.as_str().parse().unwrap();
            let (status, body) = plain.send(request).await.unwrap();
            assert_eq!((status, &body[..]), (200, &b"ok"[..]));
            // Until its end has come here.
            while plain
                .idle()
                .iter()
                .any(|connection| !connection.is_closed())
            {
                tokio::task::yield_now().await;
            }
        }
    }

    #[test]
    fn what_is_more_than_plain_http_is_left_to_reqwest() {
        for url in [
            "https://127.0.0.1:1/infer",
            "http://me:secret@127.0.0.1:1/infer",
        ] {
            let link = Link::new(&Url::parse(url).unwrap(), Duration::from_secs(60)).unwrap();
            assert!(matches!(link, Link::Other(_)), "{url}");
        }
    }
}
