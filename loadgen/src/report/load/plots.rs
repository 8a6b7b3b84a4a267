//! The plots of a load test: latency, goodput and failures over the offered load, a line for each server.

use super::{Server, failed, judged, percentile};
use crate::report::{
    plot::{Lines, Plot, lines::Series},
    record::Point,
};

/// All plots.
pub(super) fn over_load(servers: &[Server<'_>], objectives: &[String]) -> Vec<Plot> {
    let lines =
        |title: String, y: &str, log: bool, limits, value: &dyn Fn(&Point) -> Option<f64>| {
            Plot::Lines(Lines {
                title,
                x: "requests/s offered".into(),
                y: y.into(),
                log,
                linear: true,
                limits,
                series: line_for_each(servers, value),
                ..Lines::default()
            })
        };
    let mut percents: Vec<f64> = servers.iter().flat_map(Server::percents).collect();
    percents.push(50.0);
    percents.sort_unstable_by(f64::total_cmp);
    percents.dedup();
    let mut plots = Vec::new();
    for percent in percents {
        let title = format!("Latency, p{percent}");
        plots.push(lines(
            title,
            "ms, from when a request was due",
            true,
            limits(servers, percent),
            &|point| percentile(point, percent)?.ms,
        ));
    }
    for objective in objectives {
        let title = format!("Goodput: answered well within {objective}");
        plots.push(lines(title, "requests/s", false, Vec::new(), &|point| {
            Some(judged(point, objective)?.goodput_per_s)
        }));
    }
    plots.push(lines(
        "Refused or failed".into(),
        "% of requests",
        false,
        Vec::new(),
        &|point| Some(failed(point)),
    ));
    plots
}

/// The limits of a percentile.
fn limits(servers: &[Server<'_>], percent: f64) -> Vec<(String, f64)> {
    let points = servers.iter().flat_map(|server| &server.points);
    let mut limits: Vec<(String, f64)> = Vec::new();
    for judged in points.flat_map(|point| &point.objectives) {
        let is_its = judged.objective.starts_with(&format!("p{percent}="));
        if is_its && limits.iter().all(|(name, _)| *name != judged.objective) {
            limits.push((judged.objective.clone(), judged.limit_ms));
        }
    }
    limits
}

/// A line for each server, through the mean of what was measured at each rate, without points of which the client was the bound.
fn line_for_each(servers: &[Server<'_>], value: &dyn Fn(&Point) -> Option<f64>) -> Vec<Series> {
    let line = |(colour, server): (usize, &Server<'_>)| {
        let mut drawn = server.drawn();
        drawn.retain(|point| !point.client_bound);
        let rates = drawn.chunk_by(|a, b| a.rate == b.rate);
        let mean = |points: &[&Point]| {
            let values: Vec<f64> = points.iter().filter_map(|point| value(point)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            (!values.is_empty()).then_some((points[0].rate, mean))
        };
        Series {
            name: server.name.clone(),
            colour,
            points: rates.filter_map(mean).collect(),
            ..Series::default()
        }
    };
    let lines = servers.iter().enumerate().map(line);
    lines.filter(|line| !line.points.is_empty()).collect()
}
