//! As many connections as there may be, and one more.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use galley::http::HttpConfig;
use galley_core::InputKind::Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    support::{NEVER, Server, until},
    wire::{answer, get, metrics, narrow, post, read_all, send},
};

async fn start(max_connections: usize) -> Server {
    let config = HttpConfig {
        max_connections,
        header_timeout: NEVER,
        keep_alive_timeout: NEVER,
        write_timeout: NEVER,
        body_timeout: NEVER,
        ..HttpConfig::default()
    };
    Server::start(Json, 64, config).await
}

fn one() -> Vec<u8> {
    post("/infer", r#"["a"]"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_seat_waits_and_probes_do_not() {
    let server = start(1).await;
    server.controls.close();
    let mut first = send(&server, one()).await;
    server.controls.until_busy().await;
    let mut second = send(&server, one()).await;
    for path in ["/livez", "/readyz", "/metrics", "/v2/health/ready"] {
        let mut probe = send(&server, get(path)).await;
        let answer = read_all(&mut probe).await.to_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{path}: {answer}");
        assert!(answer.contains("connection: close"), "{path}: {answer}");
    }
    let mut probe = send(&server, get("/metrics")).await;
    let metrics = read_all(&mut probe).await;
    assert!(
        metrics.contains("galley_connections_over_limit_total 6"),
        "{metrics}"
    );
    assert!(metrics.contains("galley_connections 3"), "{metrics}");
    server.controls.open();
    // It makes room.
    let answer_of_first = answer(&mut first).await.to_lowercase();
    assert!(
        answer_of_first.contains("connection: close"),
        "{answer_of_first}"
    );
    assert!(answer(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_keeps_the_server_waiting_makes_room() {
    let server = start(4).await;
    let silent = send(&server, "").await;
    let mut idle = send(&server, get("/livez")).await;
    answer(&mut idle).await;
    let halfway = send(&server, &one()[..50]).await;
    let mut deaf = narrow(&server).await;
    deaf.write_all(&post("/infer", &format!("[\"{}\"]", "x".repeat(8 << 20))))
        .await
        .unwrap();
    // Its answer is there, and not read.
    let answered = r#"protocol="fastdeploy",outcome="ok"} 1"#;
    until(async || metrics(&server).await.contains(answered)).await;
    let mut newcomers = Vec::new();
    for _ in 0..4 {
        let mut newcomer = send(&server, one()).await;
        assert!(answer(&mut newcomer).await.starts_with("HTTP/1.1 200"));
        newcomers.push(newcomer);
    }
    for mut gone in [silent, idle, halfway] {
        assert_eq!(read_all(&mut gone).await, "");
    }
    assert!(read_all(&mut deaf).await.len() < 8 << 20);
}

/// Clients that ask without a pause, over connections that they never close.
#[tokio::test(flavor = "multi_thread")]
async fn busy_clients_shut_nobody_out() {
    let server = start(3).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let greedy: Vec<_> = (0..6)
        .map(|_| {
            let (address, asked) = (server.address, Arc::clone(&asked));
            tokio::spawn(async move {
                let requests = get("/page/page.css").repeat(20);
                loop {
                    let Ok(stream) = tokio::net::TcpStream::connect(address).await else {
                        continue;
                    };
                    let (mut reader, mut writer) = stream.into_split();
                    let requests = requests.clone();
                    let writing =
                        tokio::spawn(
                            async move { while writer.write_all(&requests).await.is_ok() {} },
                        );
                    let mut buffer = vec![0; 64 << 10];
                    while reader.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                    writing.abort();
                }
            })
        })
        .collect();
    until(async || asked.load(Ordering::SeqCst) > 100).await;
    for _ in 0..10 {
        let mut newcomer = send(&server, one()).await;
        assert!(answer(&mut newcomer).await.starts_with("HTTP/1.1 200"));
        let mut probe = send(&server, get("/livez")).await;
        assert!(answer(&mut probe).await.starts_with("HTTP/1.1 200"));
    }
    for greedy in greedy {
        greedy.abort();
    }
}

/// Places outside are few, and silence keeps none.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_no_probe_out() {
    let server = start(1).await;
    server.controls.close();
    let mut first = send(&server, one()).await;
    server.controls.until_busy().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(send(&server, "").await);
    }
    let mut probe = send(&server, get("/readyz")).await;
    assert!(answer(&mut probe).await.starts_with("HTTP/1.1 200"));
    assert_eq!(read_all(&mut silent[0]).await, "");
    // Those that wait for a seat are told when others take their place.
    let mut waiting = Vec::new();
    for _ in 0..200 {
        waiting.push(send(&server, one()).await);
    }
    let refused = read_all(&mut waiting[0]).await.to_lowercase();
    assert!(refused.starts_with("http/1.1 503"), "{refused}");
    assert!(refused.contains("connection: close") && refused.contains("--max-connections"));
    server.controls.open();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));
    // One after the other, each makes room for the next.
    let last = waiting.last_mut().unwrap();
    assert!(answer(last).await.starts_with("HTTP/1.1 200"));
}
