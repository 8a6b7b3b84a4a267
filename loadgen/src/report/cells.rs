//! What tables in Markdown are made of: rows, and figures as they stand in their cells.

use std::fmt::Write;

use crate::stats::Repeats;

pub(super) fn seconds(repeats: Option<Repeats>) -> String {
    match repeats {
        None => "-".into(),
        Some(Repeats { mean, spread, .. }) if spread > 0.0 => {
            format!("{} ±{:.0}%", number(mean), spread * 100.0)
        }
        Some(Repeats { mean, .. }) => number(mean),
    }
}

/// About four digits, whatever the size.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 5,
    };
    format!("{value:.digits$}")
}

pub(super) fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), |bytes| format!("{} MiB", bytes >> 20))
}

pub(super) fn header(columns: &[&str]) -> String {
    let mut text = String::new();
    row(&mut text, columns);
    row(&mut text, &vec!["---"; columns.len()]);
    text
}

pub(super) fn row(text: &mut String, cells: &[impl AsRef<str>]) {
    text.push('|');
    for cell in cells {
        let _ = write!(text, " {} |", cell.as_ref());
    }
    text.push('\n');
}
