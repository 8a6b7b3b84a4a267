//! The report of a load test: how much traffic each server bears within its objectives, and what becomes of latency and goodput as it
//! is offered more.
//!
//! Where the client was the bound itself, a point is in the tables, which say so, and its figures are not: they are not the server's.

mod plots;
mod sections;
#[cfg(test)]
mod tests;

use super::{
    cells::{number, spark},
    document::Document,
    folder::Part,
    record::{Found, Judged, Point, Record, Run},
};
use crate::stats::Repeats;

/// The loads of some servers, read from their records.
pub(super) struct Report<'a> {
    servers: Vec<Server<'a>>,
    /// All that any was held to, as they are written.
    objectives: Vec<String>,
}

/// A server's load.
struct Server<'a> {
    /// Its label, which no other has.
    name: String,
    run: &'a Run,
    points: Vec<&'a Point>,
    found: Vec<&'a Found>,
}

impl<'a> Report<'a> {
    /// What the parts hold, of which there is at least one.
    pub(super) fn of(parts: &'a [Part]) -> Self {
        let mut report = Self {
            servers: Vec::new(),
            objectives: Vec::new(),
        };
        for part in parts {
            let label = part.run.label.as_deref().unwrap_or("server");
            let mut server = Server {
                name: report.unused(label),
                run: &part.run,
                points: Vec::new(),
                found: Vec::new(),
            };
            for record in &part.records {
                match record {
                    Record::Point(point) => server.points.push(point),
                    Record::Found(found) => server.found.push(found),
                    _ => (),
                }
            }
            for judged in server.points.iter().flat_map(|point| &point.objectives) {
                if !report.objectives.contains(&judged.objective) {
                    report.objectives.push(judged.objective.clone());
                }
            }
            report.servers.push(server);
        }
        report
    }

    /// A label, or with a number behind it if another server has it.
    fn unused(&self, label: &str) -> String {
        let taken = |name: &String| self.servers.iter().any(|server| server.name == *name);
        let numbered = (2..).map(|number| format!("{label} ({number})"));
        let mut names = std::iter::once(label.to_owned()).chain(numbered);
        names.find(|name| !taken(name)).unwrap_or_default()
    }

    fn recipe(&self) -> &str {
        self.servers[0].run.recipe.as_deref().unwrap_or("a recipe")
    }

    /// The whole report.
    pub(super) fn document(&self) -> Document {
        let mut document = Document::new(format!("{}: load", self.recipe()));
        document.text(self.heading());
        document.tiles(self.tiles());
        if self.servers.iter().any(|server| !server.found.is_empty()) {
            document.section("The highest rate that keeps the objective");
            document.table(self.found());
            document.list(self.conclusions());
        }
        document.section("Latency and goodput over the offered load");
        document.plots(plots::over_load(&self.servers, &self.objectives));
        for server in &self.servers {
            document.part(server.name.clone());
            document.table(sections::points(server, &server.drawn(), &self.objectives));
        }
        let searched = |server: &&Server<'_>| !server.searched().is_empty();
        if self.servers.iter().any(|server| searched(&server)) {
            document.section("The points of the searches");
            for server in self.servers.iter().filter(searched) {
                document.part(server.name.clone());
                document.table(sections::points(
                    server,
                    &server.searched(),
                    &self.objectives,
                ));
            }
        }
        document.section("The system");
        document.table(self.systems());
        document.section("How it was measured");
        document.list(self.method());
        document
    }

    /// What a terminal shows: the rates found, and a line for each server.
    pub(super) fn terminal(&self) -> String {
        let mut lines = vec![
            format!("{}, {}", self.recipe(), self.traffic()),
            String::new(),
        ];
        lines.extend(
            self.conclusions()
                .into_iter()
                .map(|line| format!("- {line}")),
        );
        lines.push(String::new());
        let names = self
            .servers
            .iter()
            .map(|server| server.name.chars().count());
        let width = names.max().unwrap_or(0);
        for server in &self.servers {
            let drawn = server.drawn();
            let points: Vec<&&Point> = drawn.iter().filter(|point| !point.client_bound).collect();
            let mut line = |what: &str, value: &dyn Fn(&Point) -> Option<f64>| {
                let values: Vec<f64> = points.iter().filter_map(|point| value(point)).collect();
                if !values.is_empty() {
                    lines.push(format!(
                        "{:width$}  {what:28} {}",
                        server.name,
                        spark(&values)
                    ));
                }
            };
            line("requests/s offered", &|point| Some(point.rate));
            line("p50 ms", &|point| percentile(point, 50.0)?.ms);
            for percent in server.percents() {
                line(&format!("p{percent} ms"), &|point| {
                    percentile(point, percent)?.ms
                });
            }
            for objective in &self.objectives {
                line(&format!("goodput/s, {objective}"), &|point| {
                    Some(judged(point, objective)?.goodput_per_s)
                });
            }
            if points.iter().any(|point| point.error_count() > 0) {
                line("failed, %", &|point| Some(failed(point)));
            }
            let bound = drawn.len() - points.len();
            if bound > 0 {
                lines.push(format!(
                    "{:width$}  without figures, as the client was late: {bound}",
                    server.name
                ));
            }
        }
        lines.join("\n")
    }
}

impl<'a> Server<'a> {
    /// Points that show the server, ascending by their rate.
    fn drawn(&self) -> Vec<&'a Point> {
        self.sorted(|point| point.purpose != "search")
    }

    /// Points that searches made.
    fn searched(&self) -> Vec<&'a Point> {
        self.sorted(|point| point.purpose == "search")
    }

    fn sorted(&self, wanted: fn(&Point) -> bool) -> Vec<&'a Point> {
        let mut points: Vec<&Point> = self
            .points
            .iter()
            .copied()
            .filter(|point| wanted(point))
            .collect();
        points.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        points
    }

    /// The rates that searches found for an objective; none where there was no search or none found any.
    fn rate(&self, objective: &str) -> Option<Repeats> {
        let of = self
            .found
            .iter()
            .filter(|found| found.objective == objective);
        Repeats::of(of.filter_map(|found| found.rate))
    }

    /// The highest of all.
    fn highest(&self) -> Option<f64> {
        let objectives = self.found.iter().map(|found| &found.objective);
        let rates = objectives.filter_map(|objective| Some(self.rate(objective)?.mean));
        rates.reduce(f64::max)
    }

    /// The percentiles besides the median that it was held to, ascending.
    fn percents(&self) -> Vec<f64> {
        let of_points = self.points.iter().flat_map(|point| &point.percentiles);
        let mut percents: Vec<f64> = of_points.map(|percentile| percentile.percent).collect();
        percents.retain(|&percent| percent != 50.0);
        percents.sort_unstable_by(f64::total_cmp);
        percents.dedup();
        percents
    }
}

fn percentile(point: &Point, percent: f64) -> Option<&super::record::Percentile> {
    let mut percentiles = point.percentiles.iter();
    percentiles.find(|percentile| percentile.percent == percent)
}

fn judged<'a>(point: &'a Point, objective: &str) -> Option<&'a Judged> {
    let mut objectives = point.objectives.iter();
    objectives.find(|judged| judged.objective == objective)
}

/// Refused and failed requests, in percent.
fn failed(point: &Point) -> f64 {
    100.0 * point.error_count() as f64 / point.requests.max(1) as f64
}

/// A rate as the mean of repeats.
fn rate(rate: Repeats) -> String {
    match rate.spread {
        spread if spread > 0.0 => format!("{} ±{:.1}%", number(rate.mean), 100.0 * spread),
        _ => number(rate.mean),
    }
}
