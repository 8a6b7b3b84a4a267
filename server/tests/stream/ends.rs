//! Ends: of the list, by a signal, and what is asked while it runs.

use std::process::Stdio;

use crate::program::{Place, Stream, galley, run, until};

const SLOW: [&str; 6] = [
    "--option",
    "sleep=20ms",
    "--max-batch-size",
    "4",
    "--max-in-hand",
    "32",
];

#[test]
fn a_signal_finishes_what_is_in_hand_and_the_next_run_goes_on() {
    let place = Place::new();
    let lines: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    place.write("list", lines.join("\n"));
    let stream = Stream::start(place.stream("echo", &SLOW));
    until("rows are written", || !place.rows().is_empty());
    stream.terminate();
    let ended = stream.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let first = place.rows();
    assert_eq!(ended.count("written"), first.len());
    assert!(first.len() < 400, "it was not interrupted");
    assert_eq!(place.begun(), 0, "what was given back is nobody's fault");

    let ended = run(place.stream("echo", &SLOW));
    // Whoever opens the table closes it, too, and so it is looked at first.
    let log = place.path("answers.db-wal");
    assert!(
        !std::path::Path::new(&log).exists(),
        "the file is not whole"
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.count("duplicate"), first.len());
    let rows = place.rows();
    assert_eq!(rows.len(), 400);
    assert_eq!(rows[..first.len()], first);
    assert!(rows.iter().all(|row| row.deliveries == 1));
}

#[test]
fn what_waits_for_its_turn_is_given_back() {
    let place = Place::new();
    let paths = (0..200).map(|number| place.write(&format!("{number}.jpg"), "no image"));
    let paths: Vec<String> = paths.collect();
    place.write("list", paths.join("\n"));
    // One at a time, and each waits for another that will never come.
    let args = ["--fetches", "1", "--max-queue-delay", "5ms"];
    let stream = Stream::start(place.stream("efficientnet_lite0", &args));
    until("rows are written", || !place.rows().is_empty());
    stream.terminate();
    let ended = stream.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let written = ended.count("refused");
    assert_eq!(place.rows().len(), written);
    assert_eq!(place.begun(), 0);
    let ended = run(place.stream("efficientnet_lite0", &args));
    assert_eq!(ended.count("refused"), 200 - written);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_probes_are_answered_while_it_waits_for_lines() {
    let place = Place::new();
    let to = place.path("answers.db");
    let mut command = galley(&[
        "stream",
        "echo",
        "--from",
        "-",
        "--to",
        &to,
        "--metrics-port",
        "0",
    ]);
    command.stdin(Stdio::piped());
    let mut stream = Stream::start(command);
    let line = stream.until_logged("serving metrics");
    let address = line.split("address=").nth(1).unwrap();
    let url = format!("http://{}", address.trim());
    let get = |path: &str| {
        let url = format!("{url}{path}");
        async move { reqwest::get(url).await.unwrap() }
    };
    assert_eq!(get("/livez").await.status(), 200);
    while get("/readyz").await.status() != 200 {
        tokio::task::yield_now().await;
    }
    stream.say("a\nb\na\n");
    until("two rows are written", || place.rows().len() == 2);
    let wanted = [
        r#"galley_stream_messages_total{recipe="echo",outcome="written"} 2"#,
        r#"galley_stream_messages_total{recipe="echo",outcome="duplicate"} 1"#,
        r#"galley_stream_duration_seconds_count{recipe="echo",stage="total"}"#,
        r#"galley_stream_in_hand{recipe="echo"} 0"#,
    ];
    loop {
        let metrics = get("/metrics").await.text().await.unwrap();
        if wanted.iter().all(|line| metrics.contains(line)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(get("/infer").await.status(), 404);
    stream.close();
    let ended = stream.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.count("written"), 2);
}

#[test]
fn a_summary_has_the_cost_and_wrong_settings_end_it_at_once() {
    let place = Place::new();
    place.write("list", "a\nb\n");
    let ended = run(place.stream("echo", &["--price-per-hour", "3.6"]));
    assert!(ended.stdout.contains("a million rows"), "{}", ended.stdout);
    for (args, named) in [
        (&["--allow", "ftp://a"][..], "--allow"),
        (&["--fetch-timeout", "0s"], "--fetch-timeout"),
        (&["--price-per-hour=-1"], "--price-per-hour"),
        (&["--attempts", "0"], "--attempts"),
        (&["--option", "sleep=soon"], "sleep"),
    ] {
        let ended = run(place.stream("echo", args));
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(named), "{args:?}: {}", ended.stderr);
    }
    let of = |from: &str, to: &str| run(galley(&["stream", "echo", "--from", from, "--to", to]));
    let (list, table) = (place.path("list"), place.path("other.db"));
    for (from, to) in [
        (place.path("missing"), table.clone()),
        (place.path(""), table),
        (list.clone(), place.path("")),
        (list.clone(), place.path("no/folder.db")),
        (list.clone(), list),
    ] {
        let ended = of(&from, &to);
        assert_eq!(ended.code, Some(2), "{from} to {to}: {}", ended.stderr);
    }
}
