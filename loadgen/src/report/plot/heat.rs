//! A map of ratios: rows by columns, each cell with its figure and coloured by how far it is from 1, above or below.

use std::fmt::Write;

use super::{WIDTH, label, picture};
use crate::report::document::Table;

const STEP: f64 = 34.0;
const LEFT: f64 = 110.0;
const TOP: f64 = 46.0;
/// A ratio this far from 1, either way, has the full colour.
const FULL: f64 = 2.0;
/// Steps of the colour, either way.
const SHADES: f64 = 4.0;

/// A map.
#[derive(Clone, Debug, Default)]
pub(in crate::report) struct Heat {
    pub(in crate::report) title: String,
    /// What columns are, and what each is.
    pub(in crate::report) x: String,
    pub(in crate::report) columns: Vec<String>,
    /// What rows are, what each is, and its ratios.
    pub(in crate::report) y: String,
    pub(in crate::report) rows: Vec<(String, Vec<Option<f64>>)>,
}

impl Heat {
    pub(super) fn table(&self) -> Table {
        let mut columns = vec![self.y.clone()];
        columns.extend(
            self.columns
                .iter()
                .map(|column| format!("{} {column}", self.x)),
        );
        let mut table = Table::new(&columns);
        for (name, ratios) in &self.rows {
            table.row(std::iter::once(name.clone()).chain(ratios.iter().map(|ratio| cell(*ratio))));
        }
        table
    }

    pub(super) fn svg(&self) -> String {
        let width = (WIDTH - LEFT - 8.0) / self.columns.len().max(1) as f64;
        let width = width.min(3.0 * STEP);
        let mut svg = String::new();
        label(&mut svg, (LEFT, 14.0), "start", &self.x);
        label(&mut svg, (8.0, TOP - 8.0), "start", &self.y);
        for (column, name) in self.columns.iter().enumerate() {
            let middle = LEFT + (column as f64 + 0.5) * width;
            label(&mut svg, (middle, TOP - 8.0), "middle", name);
        }
        for (row, (name, ratios)) in self.rows.iter().enumerate() {
            let y = TOP + row as f64 * STEP;
            label(&mut svg, (LEFT - 10.0, y + 21.0), "end", name);
            for (column, &ratio) in ratios.iter().enumerate() {
                let x = LEFT + column as f64 * width;
                let _ = write!(
                    svg,
                    "<rect class=\"{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    shade(ratio),
                    width - 2.0,
                    STEP - 2.0
                );
                let _ = write!(
                    svg,
                    "<text class=\"cell\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    x + width / 2.0 - 1.0,
                    y + 21.0,
                    cell(ratio)
                );
            }
        }
        picture(&self.title, TOP + self.rows.len() as f64 * STEP + 8.0, &svg)
    }
}

fn cell(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
}

/// A class of the style sheet: `up1` to `up4` above 1, `down1` to `down4` below, `even` about it.
fn shade(ratio: Option<f64>) -> String {
    let log = ratio.map_or(0.0, |ratio| ratio.ln() / FULL.ln());
    let step = (log * SHADES).round().clamp(-SHADES, SHADES);
    match step {
        up if up >= 1.0 => format!("up{up}"),
        down if down <= -1.0 => format!("down{}", -down),
        _ => "even".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_go_both_ways_alike() {
        let shades = [0.1, 0.5, 0.97, 1.0, 2.0, 50.0].map(|ratio| shade(Some(ratio)));
        assert_eq!(shades, ["down4", "down4", "even", "even", "up4", "up4"]);
        assert_eq!(shade(Some(1.2)), "up1");
        assert_eq!(shade(Some(1.0 / 1.2)), "down1");
        assert_eq!(
            (shade(None), shade(Some(0.0))),
            ("even".into(), "down4".into())
        );
    }

    #[test]
    fn each_cell_has_its_figure() {
        let heat = Heat {
            title: "Ratio".into(),
            x: "concurrency".into(),
            columns: vec!["1".into(), "16".into()],
            y: "batch".into(),
            rows: vec![("32".into(), vec![Some(1.254), None])],
        };
        assert!(heat.svg().contains(">1.25</text>"));
        assert_eq!(heat.table().rows, [["32", "1.25", "-"]]);
    }
}
