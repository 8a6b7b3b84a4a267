//! The table of streamed passes beside the native ones that they took turns with.

use std::collections::BTreeSet;

use super::{
    cells::{mebibytes, number},
    document::{Document, Table},
    record::{Record, Run, Streamed},
};
use crate::stats::Repeats;

const STAGES: [&str; 5] = ["fetch", "prepare", "queue", "forward", "write"];

/// A row for each source, and what the columns are.
pub(super) fn write(run: &Run, records: &[Record], document: &mut Document) {
    let mut columns = vec![
        "Recipe",
        "Source",
        "Table",
        "published/s",
        "Native items/s",
        "streamed rows/s",
        "streamed / native",
        "MB/s",
        "p50 ms",
        "p99 ms",
    ];
    let stages = STAGES.map(|stage| format!("{stage} ms"));
    columns.extend(stages.iter().map(String::as_str));
    columns.extend(["batch", "start-up s", "memory early, late", "peak memory"]);
    let mut rows = Table::new(&columns);
    let native = records.iter().filter_map(|record| match record {
        Record::Native(native) => Some(native.items_per_s),
        _ => None,
    });
    let native = median(native);
    let streamed = records.iter().filter_map(|record| match record {
        Record::Streamed(streamed) => Some(streamed),
        _ => None,
    });
    let all: Vec<&Streamed> = streamed.collect();
    let kind = |pass: &Streamed| {
        let rate = pass.rate.map_or("-".into(), number);
        [pass.source.clone(), pass.table.clone(), rate]
    };
    let kinds: BTreeSet<_> = all.iter().map(|pass| kind(pass)).collect();
    for of_kind in kinds {
        let of = |pass: &&&Streamed| kind(pass) == of_kind;
        let passes: Vec<&Streamed> = all.iter().filter(of).copied().collect();
        let figure = |value: fn(&Streamed) -> f64| median(passes.iter().map(|pass| value(pass)));
        let mut cells = vec![run.recipe.clone().unwrap_or_default()];
        cells.extend(of_kind);
        cells.extend([
            native.clone(),
            figure(|pass| pass.items_per_s),
            figure(|pass| pass.native_ratio),
            figure(|pass| pass.bytes_per_s / 1e6),
            figure(|pass| pass.latency_ms.p50),
            figure(|pass| pass.latency_ms.p99),
        ]);
        cells.extend(STAGES.map(|stage| {
            let times = passes.iter().filter_map(|pass| pass.stages_ms.get(stage));
            median(times.copied())
        }));
        cells.extend([
            median(passes.iter().filter_map(|pass| pass.batch_size)),
            figure(|pass| pass.startup_seconds),
            memory(&passes),
            mebibytes(passes.iter().filter_map(|pass| pass.peak_rss_bytes).max()),
        ]);
        rows.row(cells);
    }
    document.table(rows.without_empty_columns());
    document.text(
        "Native is in process with prepare, its stages one after the other. p50 and p99 are from publishing to the row; from a list, \
         from when work on a message began. Stages are means of a message, `forward` that of a batch. Memory is the worker's in the \
         second and in the last quarter of its time; where both are alike it is flat.",
    );
}

/// The median, and how far repeats lie apart.
fn median(values: impl IntoIterator<Item = f64>) -> String {
    match Repeats::of(values) {
        None => "-".into(),
        Some(Repeats { median, spread, .. }) if spread > 0.0 => {
            format!("{} ±{:.1}%", number(median), spread * 100.0)
        }
        Some(Repeats { median, .. }) => number(median),
    }
}

/// Of the pass that grew most.
fn memory(passes: &[&Streamed]) -> String {
    let growth = passes.iter().filter_map(|pass| early_and_late(pass));
    let most = growth.max_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let bytes = |bytes: f64| mebibytes(Some(bytes as u64));
    most.map_or("-".into(), |(early, late)| {
        format!("{}, {}", bytes(early), bytes(late))
    })
}

/// The median of the memory in the second quarter of the samples since the first delivery, and in the last.
fn early_and_late(pass: &Streamed) -> Option<(f64, f64)> {
    let since = pass.resident.iter();
    let working = since.filter(|(seconds, _)| *seconds >= pass.startup_seconds);
    let bytes: Vec<f64> = working.map(|(_, bytes)| *bytes as f64).collect();
    let quarter = |from: usize| bytes.get(bytes.len() * from / 4..bytes.len() * (from + 1) / 4);
    let median = |from| Some(Repeats::of(quarter(from)?.iter().copied())?.median);
    Some((median(1)?, median(3)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{record::Native, tests::run},
        stats::Latency,
    };

    fn streamed(source: &str, repeat: usize, rate: f64) -> Streamed {
        Streamed {
            source: source.into(),
            table: "sqlite".into(),
            rate: None,
            repeat,
            examples: 1024,
            compared: 100,
            seconds: 1024.0 / rate,
            startup_seconds: 1.0,
            items_per_s: rate,
            bytes_per_s: rate * 2e5,
            native_ratio: rate / 100.0,
            latency_ms: Latency {
                p50: 20.0,
                p99: 30.0,
                ..Latency::default()
            },
            stages_ms: [("fetch".to_owned(), 1.5)].into(),
            batch_size: Some(16.0),
            resident: (0..9).map(|at| (f64::from(at), 1 << 20 << at)).collect(),
            peak_rss_bytes: Some(512 << 20),
        }
    }

    fn native(repeat: usize) -> Record {
        Record::Native(Native {
            batch: 32,
            repeat,
            examples: 1024,
            seconds: 10.24,
            prepare_seconds: 1.0,
            items_per_s: 100.0,
            items_per_s_without_prepare: 110.0,
            latency_ms: Latency::default(),
            latency_without_prepare_ms: Latency::default(),
            peak_rss_bytes: None,
            ..Native::default()
        })
    }

    #[test]
    fn a_source_has_a_row_of_medians_with_their_spread() {
        let mut records = vec![native(0), native(1), native(2)];
        for (repeat, rate) in [90.0, 96.0, 98.0].into_iter().enumerate() {
            records.push(Record::Streamed(streamed("list", repeat, rate)));
        }
        records.push(Record::Streamed(streamed("nats", 0, 85.0)));
        let text = crate::report::render(&run("stream"), &records);
        let rows: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("| echo"))
            .collect();
        assert_eq!(
            rows[0],
            "| echo | list | sqlite | 100.0 | 96.00 ±4.2% | 0.960 ±4.2% | 19.20 ±4.2% | 20.00 | 30.00 | 1.50 | 16.00 | 1.00 | \
             12 MiB, 192 MiB | 512 MiB |"
        );
        assert!(rows[1].starts_with("| echo | nats | sqlite | 100.0 | 85.00 | 0.850 |"));
        assert!(text.contains("median of 2 runs"), "{text}");
    }

    #[test]
    fn what_was_published_at_a_rate_has_a_row_of_its_own() {
        let mut paced = streamed("nats", 0, 60.0);
        paced.rate = Some(60.0);
        let records = [
            native(0),
            Record::Streamed(streamed("nats", 0, 85.0)),
            Record::Streamed(paced),
        ];
        let text = crate::report::render(&run("stream"), &records);
        let has = |row: &str| text.lines().any(|line| line.starts_with(row));
        assert!(
            has("| echo | nats | sqlite | - | 100.0 | 85.00 | 0.850 |"),
            "{text}"
        );
        assert!(
            has("| echo | nats | sqlite | 60.00 | 100.0 | 60.00 | 0.600 |"),
            "{text}"
        );
    }

    #[test]
    fn memory_is_not_judged_by_one_sample() {
        let mut pass = streamed("list", 0, 90.0);
        pass.resident.truncate(2);
        assert_eq!(early_and_late(&pass), None);
    }
}
