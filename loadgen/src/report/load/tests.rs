use super::*;
use crate::report::{
    record::{Packed, Percentile},
    tests::run,
};

/// A point at a rate, with a p99 of a twentieth of it in ms until it is beyond 1000 a second.
fn point(purpose: &str, rate: f64) -> Point {
    let beyond = rate > 1000.0;
    let requests = rate as usize * 10;
    let failed = if beyond { requests / 10 } else { 0 };
    Point {
        purpose: purpose.into(),
        arrivals: "poisson".into(),
        seed: Some(1),
        batch: 1,
        rate,
        seconds: 10.0,
        requests,
        requests_ok: requests - failed,
        percentiles: vec![
            Percentile {
                percent: 50.0,
                ms: Some(rate / 100.0),
                known_to: Some(0.01),
            },
            Percentile {
                percent: 99.0,
                ms: (!beyond).then_some(rate / 20.0),
                known_to: (!beyond).then_some(0.04),
            },
        ],
        objectives: vec![Judged {
            objective: "p99=50ms".into(),
            limit_ms: 50.0,
            within: requests - failed,
            goodput_per_s: (requests - failed) as f64 / 10.0,
            kept: !beyond,
            decided: true,
        }],
        errors: if beyond {
            [("status 429".to_owned(), failed as u64)].into()
        } else {
            Default::default()
        },
        ended: "known".into(),
        samples_ms: Packed(vec![1.0]),
        ..Point::default()
    }
}

fn found(repeat: usize, rate: Option<f64>) -> Record {
    Record::Found(Found {
        repeat,
        objective: "p99=50ms".into(),
        batch: 1,
        rate,
        client_bound: false,
    })
}

fn part(label: &str, records: Vec<Record>) -> Part {
    let mut run = run("load");
    run.label = Some(label.into());
    Part { run, records }
}

fn galley() -> Part {
    let mut records = vec![
        Record::Point(point("search", 990.0)),
        found(0, Some(980.0)),
        found(1, Some(1020.0)),
    ];
    records.extend([800.0, 1000.0, 1500.0].map(|rate| Record::Point(point("draw", rate))));
    part("galley", records)
}

#[test]
fn the_report_says_what_was_found_and_what_follows() {
    let parts = [galley()];
    let text = Report::of(&parts).document().to_markdown();
    for said in [
        "| galley | p99=50ms | 1000 ±2.0% | 980.0, 1020 | 86.4 million | the server |",
        "galley keeps p99=50ms up to 1000 ±2.0% requests/s (86.4 million inputs a day).",
        "At 80 % of the highest rate, 800.0 requests/s, galley answers in 8.00 ms (p50) and 40.00 ms (p99).",
        "| 1500 | 150 % | 15000 | 15.00 | - | 1350, broken | 1500 x status 429 (10.0 %) |",
        "| 800.0 | 80 % | 8000 | 8.00 | 40.00 ±4% | 800.0, kept | 0 |",
        "## The points of the searches",
    ] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
}

#[test]
fn what_is_the_clients_has_no_figures() {
    let mut bound = point("draw", 1250.0);
    bound.client_bound = true;
    let mut records = galley().records;
    records.push(Record::Point(bound));
    let parts = [part("galley", records)];
    let report = Report::of(&parts);
    let text = report.document().to_markdown();
    let row = text
        .lines()
        .find(|line| line.starts_with("| 1250"))
        .unwrap();
    assert!(
        row.starts_with("| 1250 | 125 % | 12500 | - | - | - |"),
        "{row}"
    );
    assert!(row.contains("the client was late"), "{row}");
    let page = report.document().to_html();
    let figure = &page[page.find("Latency, p50").unwrap()..];
    let figure = &figure[..figure.find("</figure>").unwrap()];
    assert!(
        figure.contains(">1500<") && !figure.contains("1250"),
        "{figure}"
    );
    assert!(report.terminal().contains("as the client was late: 1"));
}

#[test]
fn servers_are_compared_and_told_apart() {
    let slower = vec![found(0, Some(500.0)), Record::Point(point("draw", 500.0))];
    let none = vec![found(0, None), Record::Point(point("draw", 10.0))];
    let parts = [galley(), part("galley", slower), part("triton", none)];
    let report = Report::of(&parts);
    let text = report.document().to_markdown();
    for said in [
        "Within p99=50ms galley bears 2.00 times the requests of galley (2).",
        "triton keeps p99=50ms at no rate that was tried.",
        "### triton",
    ] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    let page = report.document().to_html();
    assert!(page.contains("galley (2), ms, from when a request was due"));
    assert_eq!(page.matches("class=\"limit\"").count(), 1);
}

#[test]
fn an_interrupted_run_has_a_report_of_what_there_is() {
    for records in [Vec::new(), vec![Record::Point(point("search", 100.0))]] {
        let parts = [part("galley", records)];
        let report = Report::of(&parts);
        assert!(report.document().to_markdown().starts_with("# echo: load"));
        assert!(report.terminal().starts_with("echo, "));
    }
}
