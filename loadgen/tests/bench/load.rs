//! `galley bench load` as a user has it, against servers that are late or refuse on purpose.

use std::{fs, path::Path, time::Duration};

use galley_loadgen::{
    corpus::{CALIBRATION_SEED, SEED},
    report::record::{Found, Point, Record, Run},
};

use super::{
    compare::{records, run},
    stand_in::{Fault, Manner, StandIn},
    texts,
};

/// Requests that are sent before anything is measured.
const CALIBRATION: usize = 2 * 64;

#[derive(Default)]
struct Written {
    runs: Vec<Run>,
    points: Vec<Point>,
    found: Vec<Found>,
}

/// Runs `galley bench load echo ARGS` against a server.
fn load(server: &StandIn, args: &str, out: &Path) -> anyhow::Result<Written> {
    let url = [
        "load",
        "echo",
        "--url",
        &server.url,
        "--out",
        out.to_str().unwrap(),
    ];
    let args: Vec<&str> = url.into_iter().chain(args.split(' ')).collect();
    run(&args)?;
    Ok(read(out))
}

fn read(out: &Path) -> Written {
    let mut written = Written::default();
    for record in records(out) {
        match record {
            Record::Run(run) => written.runs.push(*run),
            Record::Point(point) => written.points.push(point),
            Record::Found(found) => written.found.push(found),
            other => panic!("{other:?}"),
        }
    }
    written
}

#[test]
fn requests_that_are_due_while_a_server_stalls_count_their_wait() {
    // About 1.7 s after the first request nothing is answered for a second.
    let stall = Some((CALIBRATION + 170, Duration::from_secs(1)));
    let server = StandIn::with(
        [],
        Manner {
            stall,
            ..Manner::default()
        },
    );
    let out = tempfile::tempdir().unwrap();
    let args = "--slo p99=50ms --rates 100 --arrivals uniform --longest 4s";
    let written = load(&server, args, out.path()).unwrap();
    let point = &written.points[0];
    assert_eq!((point.requests_ok, point.errors.len()), (point.requests, 0));
    // A hundred were due in that second, a gap of 10 ms apart, and half of them waited for half a second or longer. Who counts from
    // when a request is sent in a closed loop sees one.
    let waited = |ms: f64| {
        point
            .samples_ms
            .0
            .iter()
            .filter(|&&sample| sample >= ms)
            .count()
    };
    assert!(
        waited(980.0) >= 1 && waited(500.0) >= 48 && waited(100.0) >= 88,
        "{point:?}"
    );
    let p99 = point.percentiles.last().unwrap();
    assert!(p99.percent == 99.0 && p99.ms.unwrap() >= 900.0, "{p99:?}");
    let judged = &point.objectives[0];
    assert!(
        !judged.kept && judged.within <= point.requests - 90,
        "{judged:?}"
    );
}

#[test]
fn what_is_refused_counts_against_goodput_by_its_cause() {
    // One example in four, and they are sent in turn.
    let refused = texts(8, SEED).into_iter().step_by(4);
    let server = StandIn::start(refused.map(|text| (text, Fault::Status(429))));
    let out = tempfile::tempdir().unwrap();
    let args = "--slo p70=60s,p99=60s --rates 400 --examples 8 --longest 500ms --label mine";
    let written = load(&server, args, out.path()).unwrap();
    let point = &written.points[0];
    let refused = point.errors["status 429"] as usize;
    assert_eq!(point.requests, point.requests_ok + refused);
    assert!(refused.abs_diff(point.requests / 4) <= 1, "{point:?}");
    let kept: Vec<bool> = point.objectives.iter().map(|judged| judged.kept).collect();
    assert_eq!(kept, [true, false]);
    assert_eq!(point.objectives[0].within, point.requests_ok);
    assert_eq!(written.runs[0].label.as_deref(), Some("mine"));
    let report = fs::read_to_string(out.path().join("report.md")).unwrap();
    assert!(
        report.contains(&format!("{refused} x status 429 (2")),
        "{report}"
    );
}

#[test]
fn a_search_finds_a_rate_and_draws_what_is_around_it() {
    let one_by_one = Some(Duration::from_millis(4));
    let server = StandIn::with(
        [],
        Manner {
            one_by_one,
            ..Manner::default()
        },
    );
    let out = tempfile::tempdir().unwrap();
    let (one, other, both) = (
        out.path().join("one"),
        out.path().join("other"),
        out.path().join("both"),
    );
    let written = load(&server, "--slo p80=100ms --longest 300ms --label one", &one).unwrap();
    let [found] = written.found.as_slice() else {
        panic!("{:?}", written.found);
    };
    let rate = found.rate.unwrap();
    // It answers 250 a second, whose queue a short point lets grow for a while.
    assert!(rate < 1000.0, "{found:?}");
    let drawn: Vec<f64> = written
        .points
        .iter()
        .filter(|point| point.purpose == "draw")
        .map(|point| point.rate)
        .collect();
    assert_eq!(drawn.len(), 9);
    assert!(
        (drawn[0] / rate - 0.2).abs() < 1e-9 && (drawn[8] / rate - 1.5).abs() < 1e-9,
        "{drawn:?}"
    );
    let seeds: Vec<_> = written.points.iter().map(|point| point.seed).collect();
    assert_eq!(
        seeds,
        (1..=written.points.len() as u64)
            .map(Some)
            .collect::<Vec<_>>()
    );
    let page = fs::read_to_string(one.join("report.html")).unwrap();
    assert!(
        page.contains("Latency, p80") && page.contains("Goodput") && !page.contains("<script"),
        "{page}"
    );

    // The same report comes of the records alone, and one plot of two servers.
    let report = fs::read_to_string(one.join("report.md")).unwrap();
    fs::remove_file(one.join("report.md")).unwrap();
    run(&["report", one.to_str().unwrap()]).unwrap();
    assert_eq!(fs::read_to_string(one.join("report.md")).unwrap(), report);
    load(
        &server,
        "--slo p80=100ms --rates 50,100 --longest 200ms --label other",
        &other,
    )
    .unwrap();
    run(&[
        "report",
        one.to_str().unwrap(),
        other.to_str().unwrap(),
        "--out",
        both.to_str().unwrap(),
    ])
    .unwrap();
    assert_eq!(read(&both).runs.len(), 2);
    let page = fs::read_to_string(both.join("report.html")).unwrap();
    let figure = &page[page.find("Latency, p80").unwrap()..];
    let figure = &figure[..figure.find("</figure>").unwrap()];
    for series in ["one, ms", "other, ms"] {
        assert!(figure.contains(series), "{series} is not in {figure}");
    }
}

#[test]
fn an_objective_that_cannot_be_kept_has_no_rate() {
    let all = texts(4, SEED)
        .into_iter()
        .map(|text| (text, Fault::Status(503)));
    let server = StandIn::start(all);
    let out = tempfile::tempdir().unwrap();
    let written = load(
        &server,
        "--slo p99=1s --longest 20ms --examples 4",
        out.path(),
    )
    .unwrap();
    assert_eq!(written.found[0].rate, None);
    let report = fs::read_to_string(out.path().join("report.md")).unwrap();
    assert!(report.contains("keeps p99=1s at no rate"), "{report}");
}

#[test]
fn recorded_times_are_kept() {
    let server = StandIn::start([]);
    let out = tempfile::tempdir().unwrap();
    let times = out.path().join("times.csv");
    let lines = (0..30).map(|number| format!("{:.2},GET\n", 100.0 + 0.01 * f64::from(number)));
    fs::write(
        &times,
        format!("time,method\n{}", lines.collect::<String>()),
    )
    .unwrap();
    let args = format!("--slo p99=60s --replay {}", times.display());
    let written = load(&server, &args, &out.path().join("out")).unwrap();
    let point = &written.points[0];
    assert_eq!(
        (point.purpose.as_str(), point.ended.as_str()),
        ("replay", "replayed")
    );
    assert_eq!(
        (point.requests, point.requests_ok, point.seed),
        (30, 30, None)
    );
    assert!((point.seconds - 0.29).abs() < 1e-6, "{point:?}");
    fs::write(&times, "0\nlater\n").unwrap();
    let error = load(&server, &args, &out.path().join("out"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("--replay") && error.contains("line 2"),
        "{error}"
    );
}

#[test]
fn a_server_of_the_open_inference_protocol_is_found_and_judged() {
    let server = StandIn::with(
        [],
        Manner {
            oip: true,
            ..Manner::default()
        },
    );
    let out = tempfile::tempdir().unwrap();
    for (batch, protocol) in [(1, "auto"), (3, "oip")] {
        let args = format!("--rates 100 --longest 200ms --batch {batch} --protocol {protocol}");
        let written = load(&server, &args, out.path()).unwrap();
        let point = &written.points[0];
        assert!(point.requests > 0 && point.errors.is_empty(), "{point:?}");
        assert_eq!((point.requests_ok, point.batch), (point.requests, batch));
        let info = written.runs[0].server.as_ref().unwrap();
        assert_eq!(info.version.as_deref(), Some("stand-in 1"));
    }
    let error = load(&server, "--rates 1 --protocol fastdeploy", out.path())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/meta answers 404"), "{error}");
    let error = load(&server, "--rates 1 --model other", out.path())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/v2/models/other answers 404"), "{error}");
}

#[test]
fn the_calibration_is_of_other_examples() {
    assert!(
        texts(64, CALIBRATION_SEED)
            .iter()
            .all(|text| !texts(8, SEED).contains(text))
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let server = StandIn::start([]);
    let out = tempfile::tempdir().unwrap();
    for (args, said) in [
        ("--rates 0", "--rates"),
        ("--slo p99", "expected a percentile"),
        ("--rates 1 --replay x", "cannot be used with"),
        ("--batch 2", "--slo"),
    ] {
        let error = load(&server, args, out.path()).err().unwrap().to_string();
        assert!(error.contains(said), "{args}: {error}");
    }
}
