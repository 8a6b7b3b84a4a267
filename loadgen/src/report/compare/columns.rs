//! The columns of a comparison, each in one place: a new column is one entry here, and then stands in the tables of `report.md` and
//! `report.html`, in `report.json`, and with its meaning in README.

use serde_json::{Map, Value, json};

use super::rows::Row;
use crate::report::{cells::number, document::Table};

/// A figure of a row.
pub(super) enum Figure {
    Count(usize),
    Number(Option<f64>),
    /// A mean, and how far repeats lie apart as a part of it.
    Spread(f64, f64),
    /// A part of a whole.
    Share(f64),
    Bytes(Option<u64>),
    Words(Option<String>),
}

/// A column.
pub(super) struct Column {
    /// Its key in `report.json`.
    pub(super) key: &'static str,
    /// Its head, with the unit.
    pub(super) head: &'static str,
    /// What it is, in a sentence.
    pub(super) about: &'static str,
    pub(super) figure: fn(&Row) -> Figure,
}

/// All columns, in order.
pub(super) const COLUMNS: &[Column] = &[
    Column {
        key: "batch",
        head: "batch",
        about: "items that are run together",
        figure: |row| Figure::Count(row.batch),
    },
    Column {
        key: "items_per_s",
        head: "items/s",
        about: "items answered in a second, the mean of the passes; ±: half the distance between the slowest and the fastest pass, \
                of the mean",
        figure: |row| Figure::Spread(row.items_per_s.mean, row.items_per_s.spread),
    },
    Column {
        key: "latency_mean_ms",
        head: "mean ms",
        about: "what a batch takes from its inputs to its answers, in milliseconds, in the mean of all batches of all passes",
        figure: |row| Figure::Number(Some(row.latency.mean)),
    },
    Column {
        key: "latency_p50_ms",
        head: "p50 ms",
        about: "half of the batches take at most this; a percentile is left out where fewer batches were timed than tell it",
        figure: |row| Figure::Number(row.percentile(50.0, row.latency.p50)),
    },
    Column {
        key: "latency_p90_ms",
        head: "p90 ms",
        about: "90 % take at most this",
        figure: |row| Figure::Number(row.percentile(90.0, row.latency.p90)),
    },
    Column {
        key: "latency_p95_ms",
        head: "p95 ms",
        about: "95 % take at most this",
        figure: |row| Figure::Number(row.percentile(95.0, row.latency.p95)),
    },
    Column {
        key: "latency_p99_ms",
        head: "p99 ms",
        about: "99 % take at most this",
        figure: |row| Figure::Number(row.percentile(99.0, row.latency.p99)),
    },
    Column {
        key: "latency_p99_9_ms",
        head: "p99.9 ms",
        about: "99.9 % take at most this",
        figure: |row| Figure::Number(row.percentile(99.9, row.latency.p99_9)),
    },
    Column {
        key: "latency_max_ms",
        head: "max ms",
        about: "the slowest batch",
        figure: |row| Figure::Number(Some(row.latency.max)),
    },
    Column {
        key: "batches",
        head: "batches",
        about: "batches that were timed, in all passes",
        figure: |row| Figure::Count(row.batches),
    },
    Column {
        key: "prepare_ms",
        head: "prepare ms",
        about: "the part of the mean that inputs are read in (decoding, resizing, tokenizing), on all cores",
        figure: |row| Figure::Number(Some(row.prepare_ms)),
    },
    Column {
        key: "forward_ms",
        head: "model ms",
        about: "the part of the mean that the model takes, copies to and from the device included",
        figure: |row| Figure::Number(Some(row.forward_ms)),
    },
    Column {
        key: "finish_ms",
        head: "finish ms",
        about: "the part of the mean that answers are made in",
        figure: |row| Figure::Number(Some(row.finish_ms)),
    },
    Column {
        key: "outside_model",
        head: "outside model",
        about: "the part of the time spent in prepare and finish",
        figure: |row| Figure::Share(row.outside_model()),
    },
    Column {
        key: "resident_bytes",
        head: "memory",
        about: "the most memory that this process held in its first pass at this size; batches grow in that pass, and what is kept \
                for a later one counts",
        figure: |row| Figure::Bytes(row.resident_bytes),
    },
    Column {
        key: "device_bytes",
        head: "device memory",
        about: "the most of the device's memory that was in use in that pass, by whatever used it, its driver included",
        figure: |row| Figure::Bytes(row.device_bytes),
    },
    Column {
        key: "joules_per_item",
        head: "J an item",
        about: "energy for an item, of the device alone: by the card's own counter, or by those of the processor's packages",
        figure: |row| Figure::Number(row.joules),
    },
    Column {
        key: "watts",
        head: "W",
        about: "mean power while it ran",
        figure: |row| Figure::Number(row.watts),
    },
    Column {
        key: "clock_mhz",
        head: "MHz",
        about: "the mean clock of the device's multiprocessors",
        figure: |row| Figure::Number(row.clock_mhz),
    },
    Column {
        key: "throttled",
        head: "throttled",
        about: "what held the device's clock down at times",
        figure: |row| Figure::Words((!row.throttled.is_empty()).then(|| row.throttled.join(", "))),
    },
];

impl Figure {
    /// As it stands in a table.
    pub(super) fn cell(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Number(value) => value.map_or("-".into(), number),
            Self::Spread(mean, spread) if *spread > 0.0 => {
                format!("{} ±{:.1}%", number(*mean), spread * 100.0)
            }
            Self::Spread(mean, _) => number(*mean),
            Self::Share(share) => format!("{:.1} %", share * 100.0),
            Self::Bytes(bytes) => bytes.map_or("-".into(), mebibytes),
            Self::Words(words) => words.clone().unwrap_or_else(|| "-".into()),
        }
    }

    /// As it stands in JSON.
    fn value(&self) -> Value {
        match self {
            Self::Count(count) => json!(count),
            Self::Number(value) => json!(value),
            Self::Spread(mean, spread) => json!({ "mean": mean, "spread": spread }),
            Self::Share(share) => json!(share),
            Self::Bytes(bytes) => json!(bytes),
            Self::Words(words) => json!(words),
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A table of rows of one device and dtype; columns in which nothing was measured are left out.
pub(super) fn table(rows: &[Row]) -> Table {
    let heads: Vec<&str> = COLUMNS.iter().map(|column| column.head).collect();
    let mut table = Table::new(&heads);
    for row in rows {
        table.row(COLUMNS.iter().map(|column| (column.figure)(row).cell()));
    }
    table.without_empty_columns()
}

/// What columns are, of those that these rows have anything in.
pub(super) fn glossary(rows: &[Row]) -> Table {
    let mut table = Table::new(&["column", "in `report.json`", "what it is"]);
    for column in COLUMNS {
        if rows.iter().any(|row| (column.figure)(row).cell() != "-") {
            table.row([
                column.head.into(),
                format!("`{}`", column.key),
                column.about.into(),
            ]);
        }
    }
    table
}

/// Rows as JSON: an object each, with a key for each column.
pub(super) fn json(rows: &[Row]) -> Value {
    let object = |row: &Row| {
        let mut object = Map::new();
        object.insert("device".into(), json!(row.place));
        object.insert("dtype".into(), json!(row.dtype));
        for column in COLUMNS {
            object.insert(column.key.into(), (column.figure)(row).value());
        }
        Value::Object(object)
    };
    rows.iter().map(object).collect()
}
