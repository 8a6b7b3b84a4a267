//! What the guard cannot know from a URI alone: links, redirects, and what servers send.

use std::{convert::Infallible, path::Path, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::get,
};
use futures::{StreamExt, stream};
use tokio::net::TcpListener;

use super::*;

const MAX_BODY: u64 = 1000;

fn fetcher(allow: &[String], any_file: bool) -> Fetcher {
    fetcher_within(allow, any_file, Duration::from_secs(60))
}

fn fetcher_within(allow: &[String], any_file: bool, timeout: Duration) -> Fetcher {
    let limits = FetchLimits {
        max_body: MAX_BODY,
        max_buffered: 10 * MAX_BODY,
        timeout,
    };
    let guard = Guard::new(allow, any_file).unwrap();
    Fetcher::new(guard, limits, PublicOnly::of_system()).unwrap()
}

fn refused(result: Result<Fetched, FetchError>) -> String {
    match result {
        Err(FetchError::Refused(reason)) => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn files_are_read_within_their_limits() {
    let folder = tempfile::tempdir().unwrap();
    let fetcher = fetcher(&[], true);
    let fetched = fetcher
        .fetch(&write(folder.path(), "a b", b"abc"))
        .await
        .unwrap();
    assert_eq!(fetched.bytes, "abc");
    assert!(fetched.etag.is_some());
    assert_eq!(fetcher.budget().taken(), 1024);
    drop(fetched);
    assert_eq!(fetcher.budget().taken(), 0);
    let large = write(folder.path(), "large", &[0; MAX_BODY as usize + 1]);
    assert!(refused(fetcher.fetch(&large).await).contains("--max-body"));
    let missing = folder.path().join("missing");
    let missing = refused(fetcher.fetch(missing.to_str().unwrap()).await);
    assert!(missing.contains("No such file"), "{missing}");
    let of_folder = fetcher.fetch(folder.path().to_str().unwrap()).await;
    assert!(refused(of_folder).contains("expected a file"));
    assert!(refused(fetcher.fetch("/dev/zero").await).contains("expected a file"));
}

#[cfg(unix)]
#[tokio::test]
async fn links_lead_nowhere_that_is_not_allowed() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let (allowed, secret) = (folder.path().join("allowed"), folder.path().join("secret"));
    for folder in [&allowed, &secret] {
        std::fs::create_dir(folder).unwrap();
    }
    let outside = write(&secret, "a", b"secret");
    let inside = write(&allowed, "a", b"fine");
    symlink(&outside, allowed.join("link")).unwrap();
    symlink(&secret, allowed.join("folder")).unwrap();
    symlink(&inside, allowed.join("own")).unwrap();
    symlink("/proc/self/environ", allowed.join("environ")).unwrap();
    let fetcher = fetcher(&[allowed.to_str().unwrap().to_owned()], false);
    let path = |name: &str| allowed.join(name).to_str().unwrap().to_owned();
    for name in ["a", "own", "../allowed/a", "./a"] {
        let fetched = fetcher.fetch(&path(name)).await.unwrap();
        assert_eq!(fetched.bytes, "fine", "{name}");
    }
    for uri in [
        outside,
        path("link"),
        path("folder/a"),
        path("../secret/a"),
        path("environ"),
        format!("file://{}", path("link")),
        format!("file://{}/../secret/a", allowed.display()),
        format!("{}2/a", allowed.display()),
        "/etc/passwd".into(),
    ] {
        refused(fetcher.fetch(&uri).await);
    }
    // A pipe that nobody writes to is not waited for.
    let made = std::process::Command::new("mkfifo")
        .arg(path("pipe"))
        .status();
    if made.is_ok_and(|made| made.success()) {
        refused(fetcher.fetch(&path("pipe")).await);
    }
}

/// A server of images, and not only.
async fn server() -> String {
    let endless = || async {
        let chunk = || Ok::<_, Infallible>(vec![0u8; 100]);
        Body::from_stream(stream::repeat_with(chunk))
    };
    let huge = || async {
        (
            [(header::CONTENT_LENGTH, "1000000000000")],
            Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>()),
        )
    };
    let asks = |headers: HeaderMap| async move {
        let proper =
            headers.get(header::COOKIE).is_none() && headers.get(header::AUTHORIZATION).is_none();
        assert!(proper);
        ([(header::ETAG, "\"7\"")], "image").into_response()
    };
    let app = Router::new()
        .route("/ok/a", get(asks))
        .route(
            "/ok/away",
            get(|| async { Redirect::temporary("http://127.0.0.1:1/secret") }),
        )
        .route("/ok/near", get(|| async { Redirect::permanent("/ok/a") }))
        .route(
            "/ok/busy",
            get(|| async { StatusCode::SERVICE_UNAVAILABLE }),
        )
        .route("/ok/many", get(|| async { StatusCode::TOO_MANY_REQUESTS }))
        .route("/ok/forbidden", get(|| async { StatusCode::FORBIDDEN }))
        .route("/ok/endless", get(endless))
        .route("/ok/huge", get(huge))
        .route("/secret", get(|| async { "secret" }));
    serve(app).await
}

async fn serve(app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn what_a_server_says_is_not_believed() {
    let server = server().await;
    let fetcher = fetcher(&[format!("{server}/ok")], false);
    let fetch = |path: &str| {
        let uri = format!("{server}{path}");
        let fetcher = &fetcher;
        async move { fetcher.fetch(&uri).await }
    };
    let fetched = fetch("/ok/a?X-Signature=secret#b").await.unwrap();
    assert_eq!(fetched.bytes, "image");
    assert_eq!(fetched.etag.as_deref(), Some("\"7\""));
    drop(fetched);
    for (path, reason) in [
        ("/secret", "not allowed"),
        ("/ok/../secret", "not allowed"),
        ("/ok/away", "redirects are not followed"),
        ("/ok/near", "redirects are not followed"),
        ("/ok/missing", "404"),
        ("/ok/forbidden", "403"),
        ("/ok/huge", "--max-body"),
        ("/ok/endless", "--max-body"),
    ] {
        let refusal = refused(fetch(path).await);
        assert!(refusal.contains(reason), "{path}: {refusal}");
    }
    for path in ["/ok/busy", "/ok/many"] {
        let error = fetch(path).await.unwrap_err();
        assert!(matches!(error, FetchError::Passing(_)), "{path}: {error:?}");
    }
    assert_eq!(fetcher.budget().taken(), 0);
}

#[tokio::test]
async fn servers_that_take_for_ever_are_not_waited_for() {
    let drip = || async {
        let first = stream::once(async { Ok::<_, Infallible>("begins") });
        Body::from_stream(first.chain(stream::pending()))
    };
    let app = Router::new()
        .route("/silent", get(std::future::pending::<StatusCode>))
        .route("/drip", get(drip));
    let server = serve(app).await;
    let fetcher = fetcher_within(
        std::slice::from_ref(&server),
        false,
        Duration::from_millis(300),
    );
    for path in ["silent", "drip"] {
        let error = fetcher.fetch(&format!("{server}/{path}")).await;
        let error = error.unwrap_err();
        assert!(
            matches!(&error, FetchError::Passing(why) if why.contains("timeout")),
            "{error:?}"
        );
    }
    assert_eq!(fetcher.budget().taken(), 0);
}

#[tokio::test]
async fn names_of_this_network_reach_nothing_and_errors_keep_secrets() {
    let server = server().await;
    let port = server.rsplit(':').next().unwrap();
    let named = format!("http://localhost:{port}");
    let fetcher = fetcher(std::slice::from_ref(&named), false);
    let uri = format!("{named}/secret?X-Signature=hidden");
    let refusal = refused(fetcher.fetch(&uri).await);
    assert!(refusal.contains("not a public address"), "{refusal}");
    // Nobody listens there.
    let fetcher = super::tests::fetcher(&["http://127.0.0.1:1".into()], false);
    let error = fetcher
        .fetch("http://127.0.0.1:1/a?X-Signature=hidden")
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Passing(_)), "{error:?}");
    assert!(!error.to_string().contains("hidden"), "{error}");
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_the_next_time_gains_nothing() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let server = server().await;
    let port: u16 = server.rsplit(':').next().unwrap().parse().unwrap();
    let times = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&times);
    // At first an address where nobody answers in time; then this machine.
    let look_up = move |_| {
        let address = match asked.fetch_add(1, Ordering::SeqCst) {
            0 => "[2620:4f:8000::1]:0",
            _ => "127.0.0.1:0",
        };
        let address = address.parse().unwrap();
        Box::pin(async move { std::io::Result::Ok(vec![address]) }) as _
    };
    let resolver = PublicOnly::new(Arc::new(look_up));
    let allow = [format!("http://rebinding.example:{port}")];
    let limits = FetchLimits {
        max_body: MAX_BODY,
        max_buffered: MAX_BODY,
        timeout: Duration::from_millis(200),
    };
    let fetcher = Fetcher::new(Guard::new(&allow, false).unwrap(), limits, resolver).unwrap();
    let uri = format!("http://rebinding.example:{port}/secret");
    let error = fetcher.fetch(&uri).await.unwrap_err();
    assert!(matches!(error, FetchError::Passing(_)), "{error:?}");
    let refusal = refused(fetcher.fetch(&uri).await);
    assert!(refusal.contains("127.0.0.1 is not a public"), "{refusal}");
    assert_eq!(times.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn inputs_wait_for_room_in_memory() {
    let budget = Arc::new(Budget::new(2 * 1024));
    let first = budget.take(1500).await;
    assert!(!budget.was_short());
    let waits = {
        let budget = Arc::clone(&budget);
        tokio::spawn(async move { budget.take(1).await })
    };
    while !budget.was_short() {
        tokio::task::yield_now().await;
    }
    assert!(!waits.is_finished());
    drop(first);
    drop(waits.await.unwrap());
    assert_eq!(budget.taken(), 0);
}
