//! Answers that are hostile, foreign or a refusal, and where the token may go.

use clap::{Args, Command};
use galley::pull::{self, Hub, PullArgs, PullError};
use galley_core::hub::Cache;
use indicatif::ProgressBar;

use crate::{
    place::{Place, TOKEN},
    stand_in::{
        COMMIT, CONFIG_ETAG, REPO, Reply, Request, StandIn, WEIGHTS, first, info, model,
        model_reply, sha256,
    },
};

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
        let renamed = request.path.replace(REPO, "team/renamed");
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
    for (headers, reason) in [
        ([("x-linked-size", "6"), ("x-other", "")], "got nothing"),
        (
            [("etag", CONFIG_ETAG), ("x-linked-size", "-6")],
            "expected the file's size",
        ),
        (
            [("etag", CONFIG_ETAG), ("x-linked-size", "99999999999999")],
            "at most",
        ),
    ] {
        let place = Place::new();
        let hub = StandIn::start(move |request| {
            request.heads("config.json").then(|| {
                let reply = Reply::ok("").with("x-repo-commit", COMMIT);
                let add = |reply: Reply, (name, value)| reply.with(name, value);
                headers.into_iter().fold(reply, add)
            })
        });
        let error = place.pull(&hub).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
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

#[test]
fn a_recipe_without_hub_weights_says_what_it_has() {
    let run = |recipe: &str| {
        let revision = "main".into();
        let recipe = recipe.into();
        pull::run(&PullArgs { recipe, revision })
            .unwrap_err()
            .to_string()
    };
    let error = run("echo");
    assert!(error.contains("no hub weights; it has bundled"), "{error}");
    let error = run("ecco");
    assert!(error.contains("unknown recipe \"ecco\""), "{error}");
}

#[test]
fn the_arguments_are_well_formed() {
    let command = || PullArgs::augment_args(Command::new("pull"));
    command().debug_assert();
    let parsed = command().get_matches_from(["pull", "echo", "--revision", "v1"]);
    assert_eq!(parsed.get_one::<String>("revision").unwrap(), "v1");
    assert!(command().try_get_matches_from(["pull"]).is_err());
}
