//! The plots of a comparison.

use super::rows::{Row, series};
use crate::report::plot::{Bars, Lines, Plot, lines::Series};

const MIB: f64 = (1 << 20) as f64;

/// Values that lie further apart than this are drawn on a logarithmic axis.
const FAR: f64 = 8.0;

/// Throughput, latency, memory, energy and where the time goes.
pub(super) fn over_batches(rows: &[Row]) -> Vec<Plot> {
    let lines = |title: &str, y: &str, value: fn(&Row) -> Option<f64>| {
        let values = || rows.iter().filter_map(value);
        let least = values().fold(f64::INFINITY, f64::min);
        let most = values().fold(0.0, f64::max);
        Plot::Lines(Lines {
            title: title.into(),
            x: "batch size".into(),
            y: y.into(),
            log: most > FAR * least,
            series: line_for_each(rows, value),
            ..Lines::default()
        })
    };
    vec![
        lines("Throughput", "items/s", |row| Some(row.items_per_s.mean)),
        lines("Latency of a batch", "ms, p50", |row| Some(row.latency.p50)),
        lines("Memory of the process", "MiB", |row| {
            Some(row.resident_bytes? as f64 / MIB)
        }),
        lines("Memory of the device", "MiB", |row| {
            Some(row.device_bytes? as f64 / MIB)
        }),
        lines("Energy of an item", "J", |row| row.joules),
        Plot::Bars(where_time_goes(rows)),
    ]
}

/// A line for each device and dtype that has any such value.
fn line_for_each(rows: &[Row], value: fn(&Row) -> Option<f64>) -> Vec<Series> {
    let line = |(colour, rows): (usize, &[Row])| Series {
        name: rows[0].series(),
        colour,
        points: rows
            .iter()
            .filter_map(|row| Some((row.batch as f64, value(row)?)))
            .collect(),
        ..Series::default()
    };
    let lines = series(rows).into_iter().enumerate().map(line);
    lines.filter(|line| !line.points.is_empty()).collect()
}

/// The stages as parts of a batch's time: devices whose times lie far apart have bars that can be compared.
fn where_time_goes(rows: &[Row]) -> Bars {
    let each = |row: &Row| {
        let stages = [row.prepare_ms, row.forward_ms, row.finish_ms];
        let total = stages.iter().sum::<f64>().max(1e-9);
        let name = format!("{}, batch {}", row.series(), row.batch);
        (name, stages.map(|ms| 100.0 * ms / total).to_vec())
    };
    // The smallest and the largest batch of each series tell it; all of them would be a wall.
    let ends = series(rows).into_iter().flat_map(|series| match series {
        [first, .., last] => vec![each(first), each(last)],
        some => some.iter().map(each).collect(),
    });
    Bars {
        title: "Where the time of a batch goes".into(),
        unit: "% of its time".into(),
        parts: vec!["prepare".into(), "model".into(), "finish".into()],
        bars: ends.collect(),
    }
}
