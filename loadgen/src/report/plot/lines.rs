//! Series over sizes, such as throughput over the batch, or over a quantity, such as latency over the load.

use std::fmt::Write;

use super::{COLOURS, HEIGHT, WIDTH, label, line, mark, picture, scale::Scale, tick};
use crate::report::{cells::number, document::Table};

/// The space around the plot: left, right, top, bottom.
const MARGINS: (f64, f64, f64, f64) = (64.0, 16.0, 28.0, 46.0);

/// Lines over the same sizes.
#[derive(Clone, Debug, Default)]
pub(in crate::report) struct Lines {
    pub(in crate::report) title: String,
    /// What the sizes are: `batch size`.
    pub(in crate::report) x: String,
    /// Where they are the places in a row, from 0: what stands there. Empty where they are sizes.
    pub(in crate::report) names: Vec<String>,
    /// What the values are, with their unit: `items/s`.
    pub(in crate::report) y: String,
    /// Whether equal ratios of values are equal steps.
    pub(in crate::report) log: bool,
    /// Whether sizes are a quantity, whose axis begins at zero and names round values, and not the few that were tried.
    pub(in crate::report) linear: bool,
    /// Values to keep below, with their names: lines across.
    pub(in crate::report) limits: Vec<(String, f64)>,
    pub(in crate::report) series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug, Default)]
pub(in crate::report) struct Series {
    pub(in crate::report) name: String,
    /// The number of its colour and mark, the same in all plots of a report.
    pub(in crate::report) colour: usize,
    /// Sizes, ascending, and values.
    pub(in crate::report) points: Vec<(f64, f64)>,
    /// The least and the most that a value was measured as; of each point, or of none.
    pub(in crate::report) bands: Vec<(f64, f64)>,
}

/// As many names as stand side by side.
const NAMES: usize = 8;

impl Lines {
    /// All sizes, ascending.
    fn sizes(&self) -> Vec<f64> {
        let points = self.series.iter().flat_map(|series| &series.points);
        let mut sizes: Vec<f64> = points.map(|&(size, _)| size).collect();
        sizes.sort_unstable_by(f64::total_cmp);
        sizes.dedup();
        sizes
    }

    pub(super) fn table(&self) -> Table {
        let mut columns = vec![self.x.clone()];
        columns.extend(
            self.series
                .iter()
                .map(|series| format!("{}, {}", series.name, self.y)),
        );
        let mut table = Table::new(&columns);
        for size in self.sizes() {
            let value = |points: &[(f64, f64)]| {
                let point = points.iter().find(|&&(at, _)| at == size);
                point.map_or("-".into(), |&(_, value)| number(value))
            };
            let values = self.series.iter().map(|series| value(&series.points));
            table.row(std::iter::once(self.name(size)).chain(values));
        }
        table
    }

    /// What stands beside the axis at a size.
    fn name(&self, size: f64) -> String {
        let name = self.names.get(size as usize);
        name.cloned().unwrap_or_else(|| tick(size))
    }

    /// The axis of sizes, and those of them that are named.
    fn across(&self, places: (f64, f64)) -> (Scale, Vec<f64>) {
        if self.names.is_empty() {
            let x = match self.linear {
                true => Scale::new(self.sizes(), places, false),
                false => Scale::of_sizes(&self.sizes(), places),
            };
            let named = x.ticks().to_vec();
            return (x, named);
        }
        let every = self.names.len().div_ceil(NAMES);
        let named = (0..self.names.len())
            .step_by(every)
            .map(|place| place as f64);
        (Scale::of_row(self.names.len(), places), named.collect())
    }

    pub(super) fn svg(&self) -> String {
        let (left, right, top, bottom) = MARGINS;
        let (right, bottom) = (WIDTH - right, HEIGHT - bottom);
        let values = self.series.iter().flat_map(|series| {
            let bands = series.bands.iter().flat_map(|&(least, most)| [least, most]);
            series.points.iter().map(|&(_, value)| value).chain(bands)
        });
        let limits = self.limits.iter().map(|&(_, limit)| limit);
        let y = Scale::new(values.chain(limits), (bottom, top), self.log);
        // Marks on the first and the last size keep clear of the edge, and so do names, which are wider.
        let inset = if self.names.is_empty() { 14.0 } else { 36.0 };
        let (x, named) = self.across((left + inset, right - inset));
        let mut svg = String::new();
        for &value in y.ticks() {
            if let Some(place) = y.place(value) {
                line(&mut svg, "grid", (left, place), (right, place));
                label(&mut svg, (left - 8.0, place + 4.0), "end", &tick(value));
            }
        }
        line(&mut svg, "axis", (left, bottom), (right, bottom));
        for size in named {
            if let Some(place) = x.place(size) {
                line(&mut svg, "axis", (place, bottom), (place, bottom + 5.0));
                let name = self.name(size);
                label(&mut svg, (place, bottom + 20.0), "middle", &name);
            }
        }
        label(
            &mut svg,
            ((left + right) / 2.0, HEIGHT - 6.0),
            "middle",
            &self.x,
        );
        label(&mut svg, (8.0, 14.0), "start", &self.y);
        for (name, limit) in &self.limits {
            if let Some(place) = y.place(*limit) {
                line(&mut svg, "limit", (left, place), (right, place));
                label(&mut svg, (left + 4.0, place - 4.0), "start", name);
            }
        }
        for series in &self.series {
            let places = series.points.iter();
            let places: Vec<(f64, f64)> = places
                .filter_map(|&(size, value)| x.place(size).zip(y.place(value)))
                .collect();
            let mut path = String::new();
            for (index, (x, y)) in places.iter().enumerate() {
                let command = if index == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{x:.1} {y:.1}");
            }
            let class = series.colour % COLOURS;
            for (&(size, _), &(least, most)) in series.points.iter().zip(&series.bands) {
                if let (Some(x), Some(least), Some(most)) =
                    (x.place(size), y.place(least), y.place(most))
                {
                    line(&mut svg, &format!("l{class}"), (x, least), (x, most));
                }
            }
            let _ = write!(svg, "<path class=\"l{class}\" d=\"{path}\"/>");
            for place in places {
                svg.push_str(&mark(series.colour, place));
            }
        }
        picture(&self.title, HEIGHT, &svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_a_mark_and_a_cell() {
        let series = |name: &str, colour, points: &[(f64, f64)]| Series {
            name: name.into(),
            colour,
            points: points.to_vec(),
            ..Series::default()
        };
        let lines = Lines {
            names: Vec::new(),
            title: "Speed & size".into(),
            x: "batch".into(),
            y: "items/s".into(),
            log: true,
            linear: false,
            limits: Vec::new(),
            series: vec![
                series("cpu", 0, &[(1.0, 10.0), (8.0, 40.0)]),
                series("cuda:0", 1, &[(8.0, 4000.0)]),
            ],
        };
        let svg = lines.svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert_eq!(svg.matches("<rect").count(), 1);
        assert!(svg.contains("aria-label=\"Speed &amp; size;"), "{svg}");
        let table = lines.table();
        assert_eq!(table.columns, ["batch", "cpu, items/s", "cuda:0, items/s"]);
        assert_eq!(table.rows, [["1", "10.00", "-"], ["8", "40.00", "4000"]]);
    }

    #[test]
    fn places_in_a_row_have_names_of_which_some_are_shown() {
        let lines = Lines {
            title: "By run".into(),
            x: "run".into(),
            y: "items/s".into(),
            names: (0..20).map(|run| format!("run {run}")).collect(),
            series: vec![Series {
                points: (0..20).map(|run| (f64::from(run), 10.0)).collect(),
                bands: vec![(8.0, 30.0); 20],
                ..Series::default()
            }],
            ..Lines::default()
        };
        let svg = lines.svg();
        assert_eq!(svg.matches(">run ").count(), 7, "{svg}");
        // A band is a line of its series' colour, and the axis has room for it.
        assert_eq!(svg.matches("<line class=\"l0\"").count(), 20);
        assert!(svg.contains(">30</text>"), "{svg}");
        assert_eq!(lines.table().rows[19], ["run 19", "10.00"]);
    }

    #[test]
    fn a_quantity_has_a_round_axis_and_limits_are_lines_across() {
        let lines = Lines {
            title: "Latency".into(),
            x: "load".into(),
            y: "ms".into(),
            log: true,
            linear: true,
            limits: vec![("p99=50ms".into(), 50.0)],
            series: vec![Series {
                name: "galley".into(),
                colour: 0,
                points: vec![(37.0, 4.0), (171.0, 30.0)],
                ..Series::default()
            }],
            ..Lines::default()
        };
        let svg = lines.svg();
        assert!(
            svg.contains(">200</text>") && !svg.contains(">171</text>"),
            "{svg}"
        );
        assert_eq!(svg.matches("class=\"limit\"").count(), 1);
        assert!(svg.contains(">p99=50ms</text>"), "{svg}");
    }
}
