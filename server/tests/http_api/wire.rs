//! Connections of a client that writes what it likes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{Server, within};

/// A request that posts this body.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// One that asks for a path.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

/// A connection over which this has been sent.
pub(crate) async fn send(server: &Server, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream
}

/// A connection whose client takes little at a time.
pub(crate) async fn narrow(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(server.address).await.unwrap()
}

/// One answer, header and body.
pub(crate) async fn answer(stream: &mut TcpStream) -> String {
    let reading = async {
        let mut text = Vec::new();
        loop {
            let end = text.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            let header = String::from_utf8_lossy(&text[..end.unwrap_or(0)]).to_lowercase();
            let length = header
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let whole = end.map(|end| end + 4 + length.unwrap_or(0));
            if whole.is_some_and(|whole| text.len() >= whole) {
                return String::from_utf8_lossy(&text).into_owned();
            }
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                panic!("closed after {:?}", String::from_utf8_lossy(&text));
            }
        }
    };
    within(reading).await.expect("an answer")
}

/// All that comes until the server closes.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = within(stream.read_to_end(&mut text))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&text).into_owned()
}

/// What `/metrics` says.
pub(crate) async fn metrics(server: &Server) -> String {
    let answer = reqwest::get(format!("{}/metrics", server.url)).await;
    answer.unwrap().text().await.unwrap()
}
