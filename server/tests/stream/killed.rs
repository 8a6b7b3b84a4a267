//! `kill -9` at random moments: each file once, with the answer of `galley predict`.

use std::{collections::BTreeMap, path::PathBuf, thread, time::Duration};

use crate::program::{Place, Stream, galley, repository, run};

const FOLDERS: [&str; 4] = [
    "loadgen/data/photos",
    "recipes/efficientnet/examples",
    "recipes/efficientnet/tests/data/cases",
    "recipes/efficientnet/tests/data/variants",
];
const KILLS: u64 = 20;
/// Few at a time, so that there is work left at every kill; and however often one is in hand, it is nobody's fault.
const ARGS: [&str; 8] = [
    "--max-batch-size",
    "2",
    "--max-in-hand",
    "4",
    "--threads",
    "2",
    "--attempts",
    "100",
];

fn photos() -> Vec<PathBuf> {
    let files = |folder: &&str| repository(folder).read_dir().unwrap();
    let paths = FOLDERS.iter().flat_map(files);
    let mut photos: Vec<PathBuf> = paths.map(|entry| entry.unwrap().path()).collect();
    photos.retain(|path| path.extension().is_some_and(|kind| kind == "jpg"));
    photos.sort();
    photos
}

/// Numbers that look random; the same in each run.
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[test]
fn killed_at_any_moment_it_ends_with_each_file_once() {
    let place = Place::new();
    let mut paths = Vec::new();
    for (number, photo) in photos().iter().enumerate() {
        for copy in ["a", "b", "c"] {
            let name = format!("{number} {copy}.jpg");
            paths.push(place.write(&name, std::fs::read(photo).unwrap()));
        }
    }
    place.write("list", paths.join("\n"));

    let mut written = BTreeMap::new();
    let mut kills = 0;
    for round in 0..KILLS {
        let before = place.rows().len();
        let mut stream = Stream::start(place.stream("efficientnet_lite0", &ARGS));
        // In some rounds before anything is written, in others after a row or some.
        let more = random(round) as usize % 4;
        let pause = Duration::from_millis(random(round + 100) % 200);
        while place.rows().len() < before + more && !stream.has_ended() {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(pause);
        kills += usize::from(!stream.has_ended());
        stream.kill();
        for row in place.rows() {
            let first = written.entry(row.id).or_insert(row.written_at.clone());
            assert_eq!(*first, row.written_at, "a row was written again");
        }
    }
    let before = place.rows().len();
    let ended = run(place.stream("efficientnet_lite0", &ARGS));
    println!("{kills} kills while it ran; then {}", ended.stdout);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.count("duplicate"), before);

    let rows = place.rows();
    assert_eq!(rows.len(), paths.len());
    let mut predict = vec!["predict", "efficientnet_lite0", "--batch", "1"];
    predict.extend(paths.iter().map(String::as_str));
    let predicted = run(galley(&predict));
    for (path, line) in paths.iter().zip(predicted.stdout.lines()) {
        let row = place.row(path);
        match line.starts_with("{\"error\"") {
            true => assert_eq!(row.status, "refused", "{row:?}"),
            false => {
                assert_eq!(row.status, "ok", "{row:?}");
                same(row.answer.as_deref().unwrap(), line);
            }
        }
    }

    // Once more, and nothing changes.
    let again = run(place.stream("efficientnet_lite0", &ARGS));
    assert_eq!(
        (again.code, again.count("duplicate")),
        (Some(0), paths.len())
    );
    assert_eq!(place.rows(), rows);
    assert_eq!(place.begun(), 0);
}

/// The same classes in the same order, and the same scores but for the last digits, which may depend on the batch.
fn same(answer: &str, expected: &str) {
    let read = |text: &str| -> Vec<serde_json::Value> { serde_json::from_str(text).unwrap() };
    let (answer, expected) = (read(answer), read(expected));
    assert_eq!(answer.len(), expected.len());
    for (answer, expected) in answer.iter().zip(&expected) {
        assert_eq!(answer["class_id"], expected["class_id"]);
        let difference = answer["score"].as_f64().unwrap() - expected["score"].as_f64().unwrap();
        assert!(difference.abs() < 1e-4, "{answer} is not {expected}");
    }
}
