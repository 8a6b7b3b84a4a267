//! What became of speed over runs: series of what can be compared, and where the last run is slower than those before it.
//!
//! `source` reads folders, `series` puts together what is comparable, `metrics` says what is followed, `verdict` judges, `prices`
//! says what a machine costs, and `sections` writes the report.

mod metrics;
mod prices;
mod sections;
mod series;
mod source;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use self::{
    metrics::{ITEMS_PER_S, METRICS, Metric},
    prices::{Price, Prices},
    series::{Series, series},
    source::Sources,
    verdict::{Change, Verdict, judge},
};
use super::cells::{number, spark_from};
use crate::error::{Error, Result};

/// The series of some folders.
#[derive(Debug)]
pub(crate) struct History {
    series: Vec<Series>,
    runs: usize,
    passed_over: Vec<String>,
    prices: Option<Prices>,
}

/// A series whose last run is worse than those before it.
struct Finding<'a> {
    series: &'a Series,
    metric: &'static Metric,
    change: Change,
}

impl History {
    /// Reads folders of runs, or folders that hold such, and a file of prices.
    ///
    /// # Errors
    /// One of them cannot be read, or there is no run in them.
    pub(crate) fn read(dirs: &[PathBuf], prices: Option<&Path>) -> Result<Self> {
        let prices = prices.map(Prices::read).transpose()?;
        let Sources { runs, passed_over } = Sources::read(dirs)?;
        let series = series(&runs);
        if series.is_empty() {
            let reason = "expected folders with figures of galley, found none";
            return Err(Error::option("DIR", reason));
        }
        Ok(Self {
            series,
            runs: runs.len(),
            passed_over,
            prices,
        })
    }

    /// Writes `history.md`, `history.html` and `history.json`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(Error::file(dir))?;
        let document = self.document();
        for (name, content) in [
            ("history.md", document.to_markdown()),
            ("history.html", document.to_html()),
            ("history.json", format!("{:#}\n", self.json())),
        ] {
            let path = dir.join(name);
            fs::write(&path, content).map_err(Error::file(&path))?;
        }
        Ok(())
    }

    /// Ratios that are worse than they were, in words: what a build may fail for.
    pub(crate) fn regressions(&self) -> Vec<String> {
        self.worse(true)
    }

    /// Absolute figures that are worse than they were, in words. The machine may have been slower.
    fn warnings(&self) -> Vec<String> {
        self.worse(false)
    }

    fn worse(&self, ratios: bool) -> Vec<String> {
        let findings = self.series.iter().flat_map(|series| {
            verdicts(series).filter_map(move |(metric, verdict)| match verdict {
                Verdict::Worse(change) if metric.is_ratio == ratios => Some(Finding {
                    series,
                    metric,
                    change,
                }),
                _ => None,
            })
        });
        findings.map(|finding| finding.to_string()).collect()
    }

    /// Series with runs enough to be judged.
    fn judged(&self) -> impl Iterator<Item = &Series> {
        let known = |(_, verdict): (_, Verdict)| verdict != Verdict::Unknown;
        self.series
            .iter()
            .filter(move |series| verdicts(series).any(known))
    }

    fn folders(&self) -> usize {
        let points = self.series.iter().flat_map(|series| &series.points);
        points
            .map(|point| &point.folder)
            .collect::<BTreeSet<_>>()
            .len()
    }

    /// The price of the machine of a series.
    fn price(&self, series: &Series) -> Option<&Price> {
        self.prices.as_ref()?.of(&series.subject.machine)
    }

    /// What a million items cost as of the last run.
    fn cost(&self, series: &Series) -> Option<(f64, &str)> {
        let price = self.price(series)?;
        let rate = series.last().values[ITEMS_PER_S]?.median;
        Some((price.of_a_million(rate), &price.currency))
    }

    /// What a terminal shows: a line for each series that is judged, then what is worse.
    pub(crate) fn terminal(&self) -> String {
        let mut lines = vec![format!(
            "{} runs in {} folders, {} series, of which {} have runs enough to be judged",
            self.runs,
            self.folders(),
            self.series.len(),
            self.judged().count(),
        )];
        for series in self.judged() {
            lines.push(format!("  {}; {}", series.subject.name(), series.mode));
            lines.push(format!("      items/s {}; {}", trend(series), says(series)));
        }
        for (heading, sentences) in [
            ("Regressions:", self.regressions()),
            (
                "Warnings, of absolute figures, which drift with the machine:",
                self.warnings(),
            ),
            ("Passed over:", self.passed_over.clone()),
        ] {
            if !sentences.is_empty() {
                lines.push(heading.into());
                let sentences = sentences.iter();
                lines.extend(sentences.map(|sentence| format!("- {}", sentence.replace('`', ""))));
            }
        }
        if self.regressions().is_empty() {
            lines.push("No regression.".into());
        }
        lines.join("\n")
    }

    /// The series for other programs.
    fn json(&self) -> Value {
        let all = self.series.iter().map(|series| {
            let subject = &series.subject;
            let points = series.points.iter().map(|point| {
                let mut keys = json!({
                    "date": point.date, "version": point.version, "folder": point.folder,
                });
                for (metric, band) in METRICS.iter().zip(&point.values) {
                    if let Some(band) = band {
                        keys[metric.key] = json!({
                            "median": band.median, "least": band.least, "most": band.most,
                        });
                    }
                }
                keys
            });
            let mut judged = json!({});
            for (metric, verdict) in verdicts(series) {
                let (said, change) = match verdict {
                    Verdict::Unknown => continue,
                    Verdict::Usual(change) => ("usual", change),
                    Verdict::Worse(change) => ("worse", change),
                    Verdict::Better(change) => ("better", change),
                };
                judged[metric.key] = json!({
                    "verdict": said, "of_usual": change.ratio, "usual": change.usual,
                    "allowed": change.allowed, "runs": change.runs,
                });
            }
            json!({
                "recipe": subject.recipe, "machine": subject.machine, "device": subject.device, "dtype": subject.dtype,
                "weights": subject.weights, "inputs": subject.inputs, "threads": subject.threads,
                "mode": series.mode.to_string(), "points": points.collect::<Vec<_>>(), "judged": judged,
                "cost_of_a_million": self.cost(series).map(|(cost, currency)| json!({"cost": cost, "currency": currency})),
            })
        });
        json!({
            "series": all.collect::<Vec<_>>(),
            "regressions": self.regressions(),
            "warnings": self.warnings(),
            "passed_over": self.passed_over,
        })
    }
}

impl std::fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            series,
            metric,
            change,
        } = self;
        let last = series.last();
        write!(
            f,
            "{}; {}: {} is {:.2} times as good as the median of the {} runs before, {} ({:.2} would be usual); `{}`, {}",
            series.subject.name(),
            series.mode,
            metric.head,
            change.ratio,
            change.runs,
            number(change.usual),
            1.0 - change.allowed,
            last.folder,
            last.version,
        )
    }
}

/// What is to be said of the last run of a series, by metric.
fn verdicts(series: &Series) -> impl Iterator<Item = (&'static Metric, Verdict)> {
    METRICS
        .iter()
        .enumerate()
        .map(|(number, metric)| (metric, judge(&series.bands(number), metric.better)))
}

/// Throughput over runs, drawn so that a loss of a tenth is seen.
fn trend(series: &Series) -> String {
    let bands = series.bands(ITEMS_PER_S);
    let rates: Vec<f64> = bands.iter().map(|band| band.median).collect();
    let [least, most] =
        [f64::min, f64::max].map(|pick| rates.iter().copied().reduce(pick).unwrap_or(0.0));
    spark_from(least.min(0.75 * most), &rates)
}

/// What is to be said of the last run of a series in a few words.
fn says(series: &Series) -> String {
    let mut known = false;
    let mut words = Vec::new();
    for (metric, verdict) in verdicts(series) {
        known |= verdict != Verdict::Unknown;
        match verdict {
            Verdict::Worse(change) => {
                words.push(format!("worse: {} {:.2}", metric.head, change.ratio))
            }
            Verdict::Better(change) => {
                words.push(format!("better: {} {:.2}", metric.head, change.ratio))
            }
            Verdict::Usual(_) | Verdict::Unknown => (),
        }
    }
    match (known, words.is_empty()) {
        (false, _) => "-".into(),
        (true, true) => "as usual".into(),
        (true, false) => words.join(", "),
    }
}
