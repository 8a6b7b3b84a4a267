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

/// Values as a row of small columns, with the first and the last in figures.
pub(super) fn spark(values: &[f64]) -> String {
    spark_from(0.0, values)
}

/// The same, with columns that begin at a value.
pub(super) fn spark_from(floor: f64, values: &[f64]) -> String {
    const COLUMNS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(0.0, f64::max);
    let column = |value: &f64| {
        let share = if most > floor {
            (value - floor) / (most - floor)
        } else {
            0.0
        };
        COLUMNS[((share * 8.0).ceil() as usize).clamp(1, 8) - 1]
    };
    let drawn: String = values.iter().map(column).collect();
    match values {
        [] => String::new(),
        [only] => format!("{drawn} {}", number(*only)),
        [first, .., last] => format!("{drawn} {} to {}", number(*first), number(*last)),
    }
}

/// A number of items a day: `12.3 million`.
pub(super) fn a_day(items_per_s: f64) -> String {
    match items_per_s * 86_400.0 {
        items if items >= 1e9 => format!("{:.2} billion", items / 1e9),
        items if items >= 1e6 => format!("{:.1} million", items / 1e6),
        items => format!("{:.0} thousand", items / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_grow_with_their_values() {
        assert_eq!(spark(&[1.0, 4.0, 8.0]), "▁▄█ 1.00 to 8.00");
        assert_eq!(spark(&[3.0]), "█ 3.00");
        assert_eq!(spark(&[]), "");
        assert_eq!(spark_from(60.0, &[100.0, 80.0]), "█▄ 100.0 to 80.00");
    }
}
