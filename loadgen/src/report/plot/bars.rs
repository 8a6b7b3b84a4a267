//! Stacked bars, one under the other: where the time of a batch goes.

use std::fmt::Write;

use super::{COLOURS, WIDTH, label, line, picture, scale::Scale, tick};
use crate::report::{cells::number, document::Table};

/// A bar's height, and that with the space to the next.
const BAR: f64 = 16.0;
const STEP: f64 = 24.0;
/// Room for the bars' names, about seven units a letter.
const LETTER: f64 = 7.2;

/// Bars of the same parts.
#[derive(Clone, Debug, Default)]
pub(in crate::report) struct Bars {
    pub(in crate::report) title: String,
    /// What the values are, with their unit.
    pub(in crate::report) unit: String,
    /// What a bar's values are, in order.
    pub(in crate::report) parts: Vec<String>,
    /// Names and values.
    pub(in crate::report) bars: Vec<(String, Vec<f64>)>,
}

impl Bars {
    pub(super) fn table(&self) -> Table {
        let mut columns = vec![String::new()];
        columns.extend(
            self.parts
                .iter()
                .map(|part| format!("{part}, {}", self.unit)),
        );
        let mut table = Table::new(&columns);
        for (name, values) in &self.bars {
            let values = values.iter().map(|&value| number(value));
            table.row(std::iter::once(name.clone()).chain(values));
        }
        table
    }

    pub(super) fn svg(&self) -> String {
        let letters = self.bars.iter().map(|(name, _)| name.chars().count()).max();
        let left = (letters.unwrap_or(0) as f64 * LETTER + 16.0).min(WIDTH / 2.0);
        let (right, top) = (WIDTH - 24.0, 8.0);
        let bottom = top + self.bars.len() as f64 * STEP;
        let totals = self.bars.iter().map(|(_, values)| values.iter().sum());
        let x = Scale::new(totals, (left, right), false);
        let mut svg = String::new();
        for &value in x.ticks() {
            if let Some(place) = x.place(value) {
                line(&mut svg, "grid", (place, top), (place, bottom));
                label(&mut svg, (place, bottom + 16.0), "middle", &tick(value));
            }
        }
        for (row, (name, values)) in self.bars.iter().enumerate() {
            let y = top + row as f64 * STEP + (STEP - BAR) / 2.0;
            label(&mut svg, (left - 8.0, y + BAR - 4.0), "end", name);
            let mut sum = 0.0;
            for (part, value) in values.iter().enumerate() {
                let (from, to) = (x.place(sum), x.place(sum + value));
                if let Some((from, to)) = from.zip(to).filter(|(from, to)| to > from) {
                    let class = part % COLOURS;
                    let width = to - from;
                    let _ = write!(
                        svg,
                        "<rect class=\"f{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
                    );
                }
                sum += value;
            }
        }
        label(
            &mut svg,
            ((left + right) / 2.0, bottom + 34.0),
            "middle",
            &self.unit,
        );
        picture(&self.title, bottom + 42.0, &svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_nothing_takes_no_room() {
        let bars = Bars {
            title: "Time".into(),
            unit: "ms".into(),
            parts: vec!["prepare".into(), "forward".into(), "finish".into()],
            bars: vec![
                ("cpu".into(), vec![1.0, 3.0, 0.0]),
                ("gpu".into(), vec![1.0, 0.5, 0.5]),
            ],
        };
        let svg = bars.svg();
        assert_eq!(svg.matches("<rect class=\"f0\"").count(), 2);
        assert_eq!(svg.matches("<rect class=\"f1\"").count(), 2);
        assert_eq!(svg.matches("<rect class=\"f2\"").count(), 1);
        assert_eq!(bars.table().rows[0], ["cpu", "1.00", "3.00", "0.00000"]);
    }
}
