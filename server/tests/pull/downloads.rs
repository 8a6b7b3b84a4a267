//! Downloads that end early, go on, or bring something else than was announced.

use std::{fs, path::Path, thread, time::Duration};

use galley::pull::PullError;

use crate::{
    place::{Place, names},
    stand_in::{
        COMMIT, CONFIG, CONFIG_ETAG, REPO, Reply, Request, StandIn, WEIGHTS, first, info, model,
        model_reply, sha256,
    },
};

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

    let place = Place::new();
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
