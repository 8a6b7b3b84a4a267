//! `galley pull` against a stand-in hub that truncates, lies, drops and worse. After each failure: nothing wrong is to
//! be seen in the cache, what was good is good, and the next pull from an honest hub succeeds.

mod stand_in;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use galley::pull::{Hub, PullError, Retry, Snapshot};
use galley_core::hub::Cache;
use indicatif::ProgressBar;
use stand_in::{
    COMMIT, CONFIG, CONFIG_ETAG, REPO, Reply, Request, StandIn, WEIGHTS, info, model, sha256,
};
use tempfile::TempDir;

const TOKEN: &str = "hf_a-secret";

/// A cache in a folder of its own, inside another one that must stay empty otherwise.
struct Place {
    outer: TempDir,
    cache: Cache,
}

impl Place {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let cache = Cache::at(outer.path().join("a/b/cache"));
        Self { outer, cache }
    }

    fn pull(&self, hub: &StandIn) -> Result<Snapshot, PullError> {
        self.pull_revision(hub, "main")
    }

    fn pull_revision(&self, hub: &StandIn, revision: &str) -> Result<Snapshot, PullError> {
        Hub::new(&hub.url(), Some(TOKEN), self.cache.clone())
            .unwrap()
            .with_retry(Retry {
                attempts: 3,
                backoff: Duration::from_millis(1),
            })
            .pull(&WEIGHTS, revision, &ProgressBar::hidden())
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.cache.repo(REPO).join("blobs").join(name)
    }

    fn partial(&self) -> PathBuf {
        self.blob(&format!("{}.incomplete", sha256(&model())))
    }

    fn plant(&self, path: &Path, content: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// What is there is whole: a snapshot of the right files, their blobs, a reference, and nothing else.
    fn assert_good(&self) {
        let (commit, path) = self.cache.snapshot(&WEIGHTS).expect("a snapshot");
        assert_eq!(commit, COMMIT);
        assert_eq!(fs::read(path.join("config.json")).unwrap(), CONFIG);
        assert_eq!(fs::read(path.join("onnx/tokenizer.json")).unwrap(), CONFIG);
        assert!(fs::read(path.join("model.safetensors")).unwrap() == model());
        assert!(!path.join("vocab.txt").exists());
        let mut blobs = vec![CONFIG_ETAG.to_owned(), sha256(&model())];
        blobs.sort();
        assert_eq!(names(&self.cache.repo(REPO).join("blobs")), blobs);
        self.assert_contained();
    }

    /// Nothing can be seen of a failed first pull.
    fn assert_nothing_visible(&self) {
        let repo = self.cache.repo(REPO);
        assert_eq!(names(&repo.join("snapshots")), [""; 0]);
        assert_eq!(names(&repo.join("refs")), [""; 0]);
        assert!(!self.blob(&sha256(&model())).exists());
        assert_eq!(self.cache.snapshot(&WEIGHTS), None);
        self.assert_contained();
    }

    /// Nothing was written outside of the cache.
    fn assert_contained(&self) {
        for (folder, allowed) in [("", "a"), ("a", "b"), ("a/b", "cache")] {
            let found = names(&self.outer.path().join(folder));
            assert!(found.iter().all(|name| name == allowed), "{found:?}");
        }
        let repo = self.cache.repo(REPO);
        let own = repo.file_name().unwrap().to_str().unwrap();
        let found = names(self.cache.root());
        assert!(
            found.iter().all(|name| name == ".locks" || name == own),
            "{found:?}"
        );
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Does it for the first `times` requests that match.
fn first(
    times: usize,
    reply: impl Fn(&Request) -> Option<Reply>,
) -> impl Fn(&Request) -> Option<Reply> {
    let count = AtomicUsize::new(0);
    move |request| {
        let reply = reply(request)?;
        (count.fetch_add(1, Ordering::SeqCst) < times).then_some(reply)
    }
}

fn model_reply(
    reply: impl Fn(&Request) -> Reply + Send + Sync,
) -> impl Fn(&Request) -> Option<Reply> + Send + Sync {
    move |request| request.gets("model.safetensors").then(|| reply(request))
}

#[test]
fn a_pull_fills_the_cache_and_a_second_one_downloads_nothing() {
    let place = Place::new();
    let hub = StandIn::good();
    let snapshot = place.pull(&hub).unwrap();
    assert_eq!(snapshot.commit, COMMIT);
    assert_eq!(
        place.cache.snapshot(&WEIGHTS),
        Some((COMMIT.into(), snapshot.path.clone()))
    );
    place.assert_good();
    assert_eq!(
        fs::read_link(snapshot.path.join("onnx/tokenizer.json")).unwrap(),
        Path::new("../../../blobs").join(CONFIG_ETAG)
    );

    let again = StandIn::good();
    assert_eq!(place.pull(&again).unwrap(), snapshot);
    place.assert_good();
    let downloads = again.requests();
    assert!(!downloads.iter().any(|request| request.gets("config.json")));
    assert!(again.downloads().is_empty());
}

#[test]
fn a_truncated_file_is_refused_and_resumed_later() {
    let place = Place::new();
    let truncating = StandIn::start(model_reply(|request| {
        Reply::content(request, &model()).dropped_after(1000)
    }));
    let error = place.pull(&truncating).unwrap_err();
    assert!(
        matches!(
            error,
            PullError::Truncated {
                expected: 600_000,
                got: 3000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(truncating.downloads().len(), 3);
    place.assert_nothing_visible();

    let good = StandIn::good();
    place.pull(&good).unwrap();
    place.assert_good();
    assert_eq!(good.downloads()[0].start(), 3000);
}

#[test]
fn a_file_shorter_than_announced_is_refused() {
    let place = Place::new();
    let short = StandIn::start(model_reply(|request| match request.start() {
        0 => Reply::ok(&model()[..500]),
        _ => Reply::status(416),
    }));
    let error = place.pull(&short).unwrap_err();
    assert!(
        error.to_string().contains("expected 600000 bytes, got 500"),
        "{error}"
    );
    place.assert_nothing_visible();
    place.pull(&StandIn::good()).unwrap();
    place.assert_good();
}

#[test]
fn wrong_bytes_of_the_right_length_are_refused() {
    let place = Place::new();
    let lying = StandIn::start(model_reply(|_| Reply::ok(vec![7; 600_000])));
    let error = place.pull(&lying).unwrap_err();
    assert!(matches!(error, PullError::WrongContent { .. }), "{error}");
    place.assert_nothing_visible();
    assert!(!place.partial().exists(), "it would spoil the next pull");
    assert_eq!(lying.downloads().len(), 1, "a lie is not asked for again");

    let lying = StandIn::start(|request| request.gets("config.json").then(|| Reply::ok("HELLO\n")));
    let error = place.pull(&lying).unwrap_err();
    assert!(
        error.to_string().starts_with("config.json is not"),
        "{error}"
    );
    place.assert_nothing_visible();

    place.pull(&StandIn::good()).unwrap();
    place.assert_good();
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let place = Place::new();
    let endless = StandIn::start(model_reply(|_| Reply::ok([model(), vec![0; 10]].concat())));
    let error = place.pull(&endless).unwrap_err();
    assert!(matches!(error, PullError::BadReply { .. }), "{error}");
    assert!(!place.partial().exists());
    place.assert_nothing_visible();
}

#[test]
fn a_failed_update_leaves_the_good_snapshot() {
    const NEXT: &str = "ffffffffffffffffffffffffffffffffffffffff";
    let place = Place::new();
    place.pull(&StandIn::good()).unwrap();
    let lying = StandIn::start(|request| {
        if request.path.starts_with("/api/") {
            Some(info(NEXT))
        } else if request.heads("model.safetensors") {
            Some(Reply::announce(NEXT, &"ab".repeat(32), 5))
        } else if request.gets("model.safetensors") {
            Some(Reply::ok("wrong"))
        } else {
            let etag = format!("\"{CONFIG_ETAG}\"");
            Some(
                Reply::ok(CONFIG)
                    .with("x-repo-commit", NEXT)
                    .with("etag", &etag),
            )
        }
    });
    let error = place.pull(&lying).unwrap_err();
    assert!(matches!(error, PullError::WrongContent { .. }), "{error}");
    place.assert_good();
    assert_eq!(names(&place.cache.repo(REPO).join("snapshots")), [COMMIT]);
}

#[test]
fn a_dropped_download_is_resumed_where_it_broke() {
    let place = Place::new();
    let dropping = StandIn::start(first(
        2,
        model_reply(|request| Reply::content(request, &model()).dropped_after(200_000)),
    ));
    place.pull(&dropping).unwrap();
    place.assert_good();
    let starts: Vec<_> = dropping.downloads().iter().map(Request::start).collect();
    assert_eq!(starts, [0, 200_000, 400_000]);
}

#[test]
fn a_hub_that_ignores_ranges_starts_over() {
    let place = Place::new();
    place.plant(&place.partial(), &model()[..1234]);
    let hub = StandIn::start(model_reply(|_| Reply::ok(model())));
    place.pull(&hub).unwrap();
    place.assert_good();
    assert_eq!(hub.downloads()[0].start(), 1234);
}

#[test]
fn a_refused_range_starts_over() {
    let place = Place::new();
    place.plant(&place.partial(), &model()[..1234]);
    let hub = StandIn::start(|request| {
        (request.gets("model.safetensors") && request.start() > 0).then(|| Reply::status(416))
    });
    place.pull(&hub).unwrap();
    place.assert_good();
}

#[test]
fn another_range_than_asked_for_is_refused() {
    let place = Place::new();
    place.plant(&place.partial(), &model()[..1234]);
    let hub = StandIn::start(model_reply(|_| {
        let reply = Reply::ok(&model()[1000..]).with_status(206);
        reply.with("content-range", "bytes 1000-599999/600000")
    }));
    let error = place.pull(&hub).unwrap_err();
    assert!(error.to_string().contains("begins at byte 1234"), "{error}");
    place.assert_nothing_visible();
}

#[test]
fn a_wrong_partial_file_does_not_spoil_the_pull() {
    for partial in [vec![9; 1234], vec![9; 600_000], vec![9; 700_000]] {
        let place = Place::new();
        place.plant(&place.partial(), &partial);
        place.pull(&StandIn::good()).unwrap();
        place.assert_good();
    }
}

#[test]
fn a_damaged_blob_is_replaced() {
    let place = Place::new();
    place.pull(&StandIn::good()).unwrap();
    let blob = place.blob(&sha256(&model()));
    fs::write(&blob, vec![0; 600_000]).unwrap();
    place.pull(&StandIn::good()).unwrap();
    place.assert_good();
}

#[test]
fn a_lie_about_the_size_does_not_touch_a_good_blob() {
    let place = Place::new();
    place.pull(&StandIn::good()).unwrap();
    let hub = StandIn::start(|request| {
        let announce = || Reply::announce(COMMIT, &sha256(&model()), 5);
        request.heads("model.safetensors").then(announce)
    });
    place.pull(&hub).unwrap();
    place.assert_good();
    assert!(hub.downloads().is_empty());
}

#[test]
fn the_token_stays_with_the_hub() {
    let place = Place::new();
    let storage = StandIn::start(|request| Some(Reply::content(request, &model())));
    let signed = format!("{}/signed/model.safetensors?key=1", storage.url());
    let hub = StandIn::start(model_reply(move |_| {
        Reply::status(302).with("location", &signed)
    }));
    place.pull(&hub).unwrap();
    place.assert_good();
    assert_eq!(storage.requests().len(), 1);
    assert_eq!(storage.requests()[0].header("authorization"), None);
    assert_eq!(
        storage.requests()[0].path,
        "/signed/model.safetensors?key=1"
    );
    let bearer = format!("Bearer {TOKEN}");
    for request in hub.requests() {
        assert_eq!(request.header("authorization"), Some(bearer.as_str()));
    }
}

#[test]
fn redirects_within_the_hub_are_followed() {
    let place = Place::new();
    let hub = StandIn::start(|request| {
        let moved = |to: String| Reply::status(307).with("location", &to);
        let renamed = request.path.replace("owner/model", "new-owner/model");
        (renamed != request.path).then(|| moved(renamed))
    });
    place.pull(&hub).unwrap();
    place.assert_good();
}

#[test]
fn headers_are_not_taken_from_another_host() {
    let place = Place::new();
    let other = StandIn::good();
    let elsewhere = format!("{}/{REPO}/resolve/{COMMIT}/config.json", other.url());
    let hub = StandIn::start(move |request| {
        let reply = || Reply::status(302).with("location", &elsewhere);
        request.heads("config.json").then(reply)
    });
    let error = place.pull(&hub).unwrap_err();
    assert!(matches!(error, PullError::BadReply { .. }), "{error}");
    assert!(other.requests().is_empty());
}

#[test]
fn redirects_without_end_or_to_a_file_are_refused() {
    for (location, reason) in [("?again", "redirects"), ("file:///etc/passwd", "to file")] {
        let place = Place::new();
        let hub = StandIn::start(move |request| {
            request
                .path
                .contains("model.safetensors")
                .then(|| Reply::status(302).with("location", location))
        });
        let error = place.pull(&hub).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        place.assert_nothing_visible();
    }
}

#[test]
fn names_from_the_hub_cannot_leave_the_cache() {
    let long = "a".repeat(65);
    for etag in [
        "../../../../escaped",
        "..",
        "",
        "/etc/passwd",
        "0123",
        &long,
    ] {
        let place = Place::new();
        let etag = etag.to_owned();
        let hub = StandIn::start(move |request| {
            let announce = || Reply::announce(COMMIT, &etag, 600_000);
            request.heads("model.safetensors").then(announce)
        });
        let error = place.pull(&hub).unwrap_err();
        assert!(error.to_string().contains("expected an etag"), "{error}");
        place.assert_nothing_visible();
        assert!(hub.downloads().is_empty());
    }
    for commit in ["../../../../escaped", "", "main", &COMMIT[1..]] {
        let place = Place::new();
        let hub =
            StandIn::start(move |request| request.path.starts_with("/api/").then(|| info(commit)));
        let error = place.pull(&hub).unwrap_err();
        assert!(error.to_string().contains("expected a commit"), "{error}");
        place.assert_nothing_visible();
    }
    for revision in ["../../main", "..", "", "/main"] {
        let place = Place::new();
        let error = place.pull_revision(&StandIn::good(), revision).unwrap_err();
        assert!(matches!(error, PullError::BadRevision { .. }), "{error}");
        place.assert_nothing_visible();
    }
}

#[test]
fn a_file_of_another_commit_is_refused() {
    let place = Place::new();
    let hub = StandIn::start(|request| {
        let announce = || Reply::announce(&"f".repeat(40), &sha256(&model()), 600_000);
        request.heads("model.safetensors").then(announce)
    });
    let error = place.pull(&hub).unwrap_err();
    assert!(
        error.to_string().contains("expected a file of commit 0123"),
        "{error}"
    );
    place.assert_nothing_visible();
}

#[test]
fn a_file_without_etag_or_size_is_refused() {
    for (header, reason) in [
        ("etag", "expected the file's size"),
        ("x-linked-size", "an etag"),
    ] {
        let place = Place::new();
        let hub = StandIn::start(move |request| {
            let value = if header == "etag" { CONFIG_ETAG } else { "6" };
            request.heads("config.json").then(|| {
                Reply::ok("")
                    .with("x-repo-commit", COMMIT)
                    .with(header, value)
                    .with("content-length", "none")
            })
        });
        let error = place.pull(&hub).unwrap_err();
        // A malformed length may be refused before it is looked at here.
        let unreachable = matches!(error, PullError::Unreachable { .. });
        assert!(unreachable || error.to_string().contains(reason), "{error}");
        place.assert_nothing_visible();
    }
}

#[test]
fn a_missing_file_matters_if_it_is_required() {
    let place = Place::new();
    let hub = StandIn::start(|request| {
        request
            .path
            .ends_with("tokenizer.json")
            .then(|| Reply::status(404))
    });
    let snapshot = place.pull(&hub).unwrap();
    assert!(!snapshot.path.join("onnx").exists());
    assert!(place.cache.snapshot(&WEIGHTS).is_some());

    let place = Place::new();
    let hub = StandIn::start(|request| request.heads("config.json").then(|| Reply::status(404)));
    let error = place.pull(&hub).unwrap_err();
    assert!(matches!(error, PullError::NoSuchFile { .. }), "{error}");
    place.assert_nothing_visible();
}

#[test]
fn a_refused_or_unknown_repository_is_explained() {
    let place = Place::new();
    for status in [401, 403] {
        let hub = StandIn::start(move |_| Some(Reply::status(status)));
        let error = place.pull(&hub).unwrap_err().to_string();
        assert!(
            error.contains("HF_TOKEN") && error.contains(REPO),
            "{error}"
        );
        assert!(!error.contains(TOKEN), "{error}");
        let stranger = Hub::new(&hub.url(), None, place.cache.clone()).unwrap();
        let pulled = stranger.pull(&WEIGHTS, "main", &ProgressBar::hidden());
        assert!(pulled.unwrap_err().to_string().contains("set HF_TOKEN"));
        assert!(hub.requests()[1].header("authorization").is_none());
    }
    let hub = StandIn::start(|_| Some(Reply::status(404)));
    let error = place.pull_revision(&hub, "refs/pr/1").unwrap_err();
    assert!(
        error.to_string().contains("revision refs/pr/1 (404)"),
        "{error}"
    );
    assert_eq!(
        hub.requests()[0].path,
        "/api/models/owner/model/revision/refs%2Fpr%2F1"
    );
    place.assert_nothing_visible();
}

#[test]
fn a_hub_in_trouble_is_asked_again() {
    let place = Place::new();
    let busy = |status| {
        let api = first(2, move |request: &Request| {
            request
                .path
                .starts_with("/api/")
                .then(|| Reply::status(status))
        });
        let head = first(2, move |request: &Request| {
            request.heads("config.json").then(|| Reply::status(status))
        });
        let get = first(2, model_reply(move |_| Reply::status(status)));
        StandIn::start(move |request| {
            api(request)
                .or_else(|| head(request))
                .or_else(|| get(request))
        })
    };
    place.pull(&busy(503)).unwrap();
    place.assert_good();
    Place::new().pull(&busy(429)).unwrap();

    let broken = StandIn::start(|_| Some(Reply::status(500)));
    let error = place.pull(&broken).unwrap_err();
    assert!(
        matches!(error, PullError::Status { status: 500, .. }),
        "{error}"
    );
    assert_eq!(broken.requests().len(), 3);
    place.assert_good();
}

#[test]
fn an_endless_or_foreign_description_is_refused() {
    let place = Place::new();
    let huge = StandIn::start(|_| Some(Reply::ok(vec![b' '; (16 << 20) + 100])));
    let error = place.pull(&huge).unwrap_err();
    assert!(
        error.to_string().contains("expected at most 16777216"),
        "{error}"
    );
    let foreign = StandIn::start(|_| Some(Reply::ok("<html>")));
    let error = place.pull(&foreign).unwrap_err();
    assert!(
        error.to_string().contains("description of a model"),
        "{error}"
    );
    place.assert_nothing_visible();
}

#[test]
fn only_the_revision_that_was_pulled_is_recorded() {
    let place = Place::new();
    place.pull_revision(&StandIn::good(), "release/v1").unwrap();
    let recorded = place.cache.commit(REPO, "release/v1");
    assert_eq!(recorded.as_deref(), Some(COMMIT));
    assert_eq!(place.cache.commit(REPO, "main"), None);

    let place = Place::new();
    let snapshot = place.pull_revision(&StandIn::good(), COMMIT).unwrap();
    assert!(snapshot.path.join("config.json").is_file());
    assert_eq!(names(&place.cache.repo(REPO).join("refs")), [""; 0]);
    let error = place
        .pull_revision(&StandIn::good(), &"e".repeat(40))
        .unwrap_err();
    assert!(error.to_string().contains("the very commit"), "{error}");
}

#[test]
fn two_pulls_at_once_download_once() {
    let place = Place::new();
    let hub = StandIn::start(model_reply(|request| {
        thread::sleep(Duration::from_millis(200));
        Reply::content(request, &model())
    }));
    thread::scope(|scope| {
        for pull in [
            scope.spawn(|| place.pull(&hub)),
            scope.spawn(|| place.pull(&hub)),
        ] {
            pull.join().unwrap().unwrap();
        }
    });
    place.assert_good();
    assert_eq!(hub.downloads().len(), 1);
}

#[test]
fn endpoints_and_tokens_are_checked() {
    let cache = || Cache::at("unused");
    for endpoint in [
        "",
        "hub",
        "file:///tmp",
        "https://me:pw@hub.example",
        "https://h/?a=b",
    ] {
        let error = Hub::new(endpoint, None, cache()).err().expect(endpoint);
        assert!(error.to_string().starts_with("HF_ENDPOINT: "), "{error}");
    }
    let error = Hub::new("https://hub.example/prefix/", Some("a\nb"), cache()).err();
    let error = error.expect("a token of two lines").to_string();
    assert!(
        error.starts_with("HF_TOKEN: ") && !error.contains("a\nb"),
        "{error}"
    );
}
