//! The report of a history: what is worse, then each subject with its series, plots and versions.

use super::{
    History,
    metrics::{COUNT, ITEMS_PER_S, METRICS},
    says,
    series::{Point, Series},
    trend,
    verdict::{Band, FEWEST, LEAST, WINDOW},
};
use crate::report::{
    cells::number,
    document::{Document, Table, Tile},
    plot::{COLOURS, Lines, Plot, lines},
};

/// Values that lie further apart than this are drawn on a logarithmic axis.
const FAR: f64 = 8.0;

impl History {
    /// The whole report.
    pub(super) fn document(&self) -> Document {
        let mut document = Document::new("Benchmark history");
        document.text(self.heading());
        document.tiles(self.tiles());
        document.section("Regressions");
        let regressions = self.regressions();
        if regressions.is_empty() {
            document.text("No ratio is worse than it was.");
        }
        document.list(regressions);
        document.section("Warnings");
        let warnings = self.warnings();
        if warnings.is_empty() {
            document.text("No absolute figure is worse than it was.");
        } else {
            document.text("Absolute figures that are worse than they were. The machine may have been slower that day:");
        }
        document.list(warnings);
        document.section("Series");
        for subject in self.series.chunk_by(|a, b| a.subject == b.subject) {
            document.part(subject[0].subject.name());
            document.text(subject[0].subject.about());
            document.table(self.table(subject));
            document.plots(plots(subject));
            let versions = versions(subject);
            if !versions.rows.is_empty() {
                document.table(versions);
            }
        }
        if self.prices.is_some() {
            document.section("Prices");
            document.text(
                "What a million items cost while they are being worked on: an hour's price over the items of an hour at the rate \
                 of the passes. Time in which a machine idles costs as much, and comes on top.",
            );
            document.table(self.prices());
        }
        if !self.passed_over.is_empty() {
            document.section("What was passed over");
            document.list(self.passed_over.clone());
        }
        document.section("How it is judged");
        document.list(method());
        document.table(glossary());
        document
    }

    fn heading(&self) -> String {
        let dates = || {
            self.series
                .iter()
                .flat_map(|series| &series.points)
                .map(|point| &point.date)
        };
        let [first, last] =
            [dates().min(), dates().max()].map(|date| date.map_or("", |date| day(date)));
        format!(
            "{} runs in {} folders, {first} to {last}. A series is of one machine, recipe, device, dtype, weights, inputs, threads and way \
             of running; only its own runs are compared with each other.",
            self.runs,
            self.folders(),
        )
    }

    fn tiles(&self) -> Vec<Tile> {
        let tile = |label: &str, value: usize, about: &str| Tile {
            label: label.into(),
            value: value.to_string(),
            about: about.into(),
        };
        vec![
            tile("series", self.series.len(), "of what can be compared"),
            tile(
                "judged",
                self.judged().count(),
                &format!("with at least {FEWEST} runs before the last"),
            ),
            tile(
                "regressions",
                self.regressions().len(),
                "ratios of one sitting",
            ),
            tile("warnings", self.warnings().len(), "absolute figures"),
        ]
    }

    /// The last run of each series beside those before it.
    fn table(&self, subject: &[Series]) -> Table {
        let mut columns = vec!["run as", "runs", "last"];
        columns.extend(METRICS.iter().map(|metric| metric.head));
        columns.extend([
            "items/s over runs",
            "the last is",
            "cost of a million items",
        ]);
        let mut table = Table::new(&columns);
        for series in subject {
            let last = series.last();
            let mut cells = vec![
                series.mode.to_string(),
                series.points.len().to_string(),
                day(&last.date).to_owned(),
            ];
            cells.extend(last.values.iter().map(cell));
            cells.push(match series.points.len() {
                1 => "-".into(),
                _ => trend(series),
            });
            cells.push(says(series));
            cells.push(match self.cost(series) {
                Some((cost, currency)) => format!("{} {currency}", number(cost)),
                None => "-".into(),
            });
            table.row(cells);
        }
        table.without_empty_columns()
    }

    fn prices(&self) -> Table {
        let mut table = Table::new(&["machine", "priced as", "an hour", "from", "of"]);
        for machine in self
            .series
            .chunk_by(|a, b| a.subject.machine == b.subject.machine)
        {
            let of = &machine[0].subject.machine;
            if table.rows.iter().any(|row| row[0] == *of) {
                continue;
            }
            let row = match self.price(&machine[0]) {
                Some(price) => [
                    price.name.clone(),
                    format!("{} {}", number(price.per_hour), price.currency),
                    price.source.clone().unwrap_or("-".into()),
                    price.date.map_or("-".into(), |date| date.to_string()),
                ],
                None => ["no entry matches it", "-", "-", "-"].map(str::to_owned),
            };
            table.row(std::iter::once(of.clone()).chain(row));
        }
        table.without_empty_columns()
    }
}

/// The figures of each metric over the runs of a subject, as many lines in a plot as can be told apart.
fn plots(subject: &[Series]) -> Vec<Plot> {
    let mut runs: Vec<(&str, &str)> = subject
        .iter()
        .flat_map(|series| &series.points)
        .map(run)
        .collect();
    runs.sort_unstable();
    runs.dedup();
    let several: Vec<&Series> = subject
        .iter()
        .filter(|series| series.points.len() > 1)
        .collect();
    let mut plots = Vec::new();
    for (number, metric) in METRICS.iter().enumerate() {
        let with: Vec<&Series> = several
            .iter()
            .copied()
            .filter(|series| series.bands(number).len() > 1)
            .collect();
        for (part, some) in with.chunks(COLOURS).enumerate() {
            let lines = some.iter().enumerate();
            let series: Vec<lines::Series> = lines
                .map(|(colour, series)| line(series, number, colour, &runs))
                .collect();
            let values = || {
                series
                    .iter()
                    .flat_map(|line| &line.points)
                    .map(|&(_, value)| value)
            };
            let (least, most) = (
                values().fold(f64::INFINITY, f64::min),
                values().fold(0.0, f64::max),
            );
            plots.push(Plot::Lines(Lines {
                title: match part {
                    0 => format!("{} over runs", metric.head),
                    part => format!("{} over runs, {}", metric.head, part + 1),
                },
                x: "run".into(),
                y: metric.head.into(),
                log: most > FAR * least,
                names: names(&runs),
                series,
                ..Lines::default()
            }));
        }
    }
    plots
}

/// What tells a run from others: its date, and its folder.
fn run(point: &Point) -> (&str, &str) {
    (&point.date, &point.folder)
}

/// The days of runs, with the time where a day has several.
fn names(runs: &[(&str, &str)]) -> Vec<String> {
    let name = |&(date, _): &(&str, &str)| {
        let same = runs.iter().filter(|(other, _)| day(other) == day(date));
        match (same.count(), date.get(11..16)) {
            (2.., Some(time)) => format!("{} {time}", &day(date)[5.min(day(date).len())..]),
            _ => day(date).to_owned(),
        }
    };
    runs.iter().map(name).collect()
}

fn line(series: &Series, metric: usize, colour: usize, runs: &[(&str, &str)]) -> lines::Series {
    let places = series.points.iter().filter_map(|point| {
        let place = runs.iter().position(|other| *other == run(point))?;
        Some((place as f64, point.values[metric]?))
    });
    let places: Vec<(f64, Band)> = places.collect();
    lines::Series {
        name: series.mode.to_string(),
        colour,
        points: places
            .iter()
            .map(|(place, band)| (*place, band.median))
            .collect(),
        bands: places
            .iter()
            .map(|(_, band)| (band.least, band.most))
            .collect(),
    }
}

/// Each series by version, where it has figures of several.
fn versions(subject: &[Series]) -> Table {
    let mut columns = vec!["by version", "version", "since", "runs"];
    columns.extend(METRICS.iter().map(|metric| metric.head));
    columns.push("items/s over the version before");
    let mut table = Table::new(&columns);
    for series in subject {
        let mut versions: Vec<(&str, Vec<&Point>)> = Vec::new();
        for point in &series.points {
            match versions
                .iter_mut()
                .find(|(version, _)| *version == point.version)
            {
                Some((_, points)) => points.push(point),
                None => versions.push((&point.version, vec![point])),
            }
        }
        if versions.len() < 2 {
            continue;
        }
        let mut before: Option<f64> = None;
        for (version, points) in versions {
            let bands: [Option<Band>; COUNT] = std::array::from_fn(|metric| {
                Band::of(
                    points
                        .iter()
                        .filter_map(|point| Some(point.values[metric]?.median)),
                )
            });
            let rate = bands[ITEMS_PER_S].map(|band| band.median);
            let ratio = rate.zip(before).map(|(rate, before)| rate / before);
            let mut cells = vec![
                series.mode.to_string(),
                version.to_owned(),
                day(&points[0].date).to_owned(),
                points.len().to_string(),
            ];
            cells.extend(bands.iter().map(cell));
            cells.push(ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")));
            table.row(cells);
            before = rate.or(before);
        }
    }
    table.without_empty_columns()
}

fn cell(band: &Option<Band>) -> String {
    band.map_or("-".into(), |band| number(band.median))
}

/// The day of a time.
fn day(date: &str) -> &str {
    date.get(..10).unwrap_or(date)
}

fn method() -> Vec<String> {
    vec![
        format!(
            "The last run of a series is compared with the median of up to {WINDOW} before it; with fewer than {FEWEST} it is not judged. It is \
             worse, or better, where it differs by more than {:.0} % and by more than three times the standard deviation that the \
             median absolute deviation of those runs stands for, and no repeat of it is nearer than half of that.",
            LEAST * 100.0
        ),
        "How good a figure is in relation to others is always above 1 where it is better: of a time, the usual one over it.".into(),
        "A run's figure is the median of its repeats. In plots a vertical line goes from the least of them to the most.".into(),
        "A ratio of two figures of one sitting is a regression where it is worse, and can fail a build (`--fail-on regression`). Absolute \
         figures are warnings: on a shared machine they drift from day to day."
            .into(),
        "A loss that has lasted for half of the window is what is usual.".into(),
    ]
}

fn glossary() -> Table {
    let mut table = Table::new(&["figure", "what it is"]);
    for metric in &METRICS {
        table.row([metric.head.into(), metric.about.into()]);
    }
    table
}
