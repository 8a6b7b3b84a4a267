//! What the report of a load test says: what was found, each point, and how it was measured.

use super::{Report, Server, judged, percentile, rate};
use crate::report::{
    cells::{a_day, number},
    document::{Table, Tile},
    record::{Point, Run},
};

/// The part of the highest rate whose latency is worth a word.
const USUAL_LOAD: f64 = 0.8;

impl Report<'_> {
    pub(super) fn heading(&self) -> String {
        let run = self.servers[0].run;
        let mut machines: Vec<&str> = self
            .servers
            .iter()
            .map(|server| server.run.machine.name.as_str())
            .collect();
        machines.dedup();
        let date = run.date.get(..10).unwrap_or(&run.date);
        let place = match machines.as_slice() {
            [machine] => format!("Measured on {machine} on {date}."),
            _ => format!(
                "Put together from parts that were measured on different machines ({}), each at its own time.",
                machines.join(", ")
            ),
        };
        format!(
            "{place} {}. Inputs: {}. Latency counts from when a request was due.",
            capital(&self.traffic()),
            run.corpus.as_deref().unwrap_or("its corpus"),
        )
    }

    /// How requests came.
    pub(super) fn traffic(&self) -> String {
        let mut kinds: Vec<String> = Vec::new();
        for point in self.servers.iter().flat_map(|server| &server.points) {
            let arrivals = match point.arrivals.as_str() {
                "replay" => "recorded times".to_owned(),
                process => format!("{process} arrivals"),
            };
            let inputs = if point.batch == 1 { "input" } else { "inputs" };
            let kind = format!("{arrivals} of {} {inputs} each", point.batch);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        match kinds.is_empty() {
            true => "no points".into(),
            false => kinds.join(", "),
        }
    }

    pub(super) fn tiles(&self) -> Vec<Tile> {
        let mut tiles = Vec::new();
        for server in &self.servers {
            for objective in &self.objectives {
                if let Some(found) = server.rate(objective) {
                    tiles.push(Tile {
                        label: format!("{}, {objective}", server.name),
                        value: format!("{} requests/s", number(found.mean)),
                        about: format!("{} a day", a_day(found.mean)),
                    });
                }
            }
        }
        tiles
    }

    pub(super) fn found(&self) -> Table {
        let mut table = Table::new(&[
            "server",
            "objective",
            "requests/s",
            "of each search",
            "inputs a day",
            "bound",
        ]);
        for server in &self.servers {
            for objective in &self.objectives {
                let searches: Vec<_> = server
                    .found
                    .iter()
                    .filter(|found| found.objective == *objective)
                    .collect();
                let Some(first) = searches.first() else {
                    continue;
                };
                let found = server.rate(objective);
                let each = searches
                    .iter()
                    .map(|found| found.rate.map_or("none".into(), number));
                let bound = if searches.iter().any(|found| found.client_bound) {
                    "the client"
                } else {
                    "the server"
                };
                table.row([
                    server.name.clone(),
                    objective.clone(),
                    found.map_or("none".into(), rate),
                    each.collect::<Vec<_>>().join(", "),
                    found.map_or("-".into(), |found| a_day(found.mean * first.batch as f64)),
                    bound.into(),
                ]);
            }
        }
        table
    }

    /// What follows, with its figures.
    pub(super) fn conclusions(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for objective in &self.objectives {
            let mut bearing: Vec<(&Server<'_>, f64)> = Vec::new();
            for server in &self.servers {
                let searches = || {
                    server
                        .found
                        .iter()
                        .filter(|found| found.objective == *objective)
                };
                let client = searches().any(|found| found.client_bound);
                match server.rate(objective) {
                    Some(found) => {
                        let more = if client {
                            " or more, for the client could offer no more"
                        } else {
                            ""
                        };
                        let days = a_day(
                            found.mean * searches().next().map_or(1.0, |found| found.batch as f64),
                        );
                        sentences.push(format!(
                            "{} keeps {objective} up to {} requests/s{more} ({days} inputs a day).",
                            server.name,
                            rate(found)
                        ));
                        if !client {
                            bearing.push((server, found.mean));
                        }
                    }
                    None if searches().next().is_some() => {
                        sentences.push(format!(
                            "{} keeps {objective} at no rate that was tried.",
                            server.name
                        ));
                    }
                    None => (),
                }
            }
            bearing.sort_by(|a, b| b.1.total_cmp(&a.1));
            if let [(best, most), .., (last, least)] = bearing.as_slice() {
                sentences.push(format!(
                    "Within {objective} {} bears {:.2} times the requests of {}.",
                    best.name,
                    most / least,
                    last.name
                ));
            }
        }
        sentences.extend(self.servers.iter().filter_map(usual));
        sentences
    }

    /// A column for each server.
    pub(super) fn systems(&self) -> Table {
        let mut columns = vec![String::new()];
        columns.extend(self.servers.iter().map(|server| server.name.clone()));
        let mut table = Table::new(&columns);
        type Cell = fn(&Run) -> String;
        let rows: [(&str, Cell); 8] = [
            ("server", |run| {
                known(run.server.as_ref().and_then(|info| info.version.clone()))
            }),
            ("weights", |run| run.weights.clone()),
            ("dtype", |run| run.dtype.clone()),
            ("device", |run| run.device.clone()),
            ("largest batch", |run| {
                let size = run.server.as_ref().and_then(|info| info.max_batch_size);
                known(size.map(|size| size.to_string()))
            }),
            ("the client's machine", |run| {
                format!("{}, {} cores", run.machine.cpu, run.machine.cores)
            }),
            ("threads of the client", |run| {
                known(run.client_threads.map(|threads| threads.to_string()))
            }),
            ("command", |run| format!("`{}`", run.command)),
        ];
        for (name, value) in rows {
            let cells = self.servers.iter().map(|server| value(server.run));
            table.row(std::iter::once(name.to_owned()).chain(cells));
        }
        table
    }

    pub(super) fn method(&self) -> Vec<String> {
        [
            "The loop is open: when requests come does not depend on answers. Latency is from when a request was due until its answer \
             had been read and checked, so that what waits in the client, or could not be sent, counts too.",
            "What is refused, fails or is not answered in time is later than any limit; goodput counts what was answered well within \
             it. Each search brackets the rate and halves the bracket to 3 %; each end of the last bracket has been seen twice.",
            "A point ends when its objective is decided at 99 % by the count of requests over the limit, as in MLPerf's LoadGen, when \
             its percentiles are known to 5 % (95 % confidence), or after the longest time, when what was seen decides (\"seems\"); ± says how well a percentile is known. \
             Counts are divided by how much more they scatter than those of independent requests. The first second does not count.",
            "A point whose requests were sent late, by more than a tenth of the limit or of the latency at the percentile of the objective, is \
             the client's: it has no figures here, and bounds no server.",
        ]
        .map(Into::into)
        .into()
    }
}

/// What most want to know: the latency where there is some room left.
fn usual(server: &Server<'_>) -> Option<String> {
    let highest = server.highest()?;
    let drawn = server.drawn();
    let nearest = drawn
        .iter()
        .find(|point| (point.rate / highest / USUAL_LOAD - 1.0).abs() < 0.02)?;
    let percent = server.percents().last().copied()?;
    let (median, tail) = (
        percentile(nearest, 50.0)?.ms?,
        percentile(nearest, percent)?.ms?,
    );
    (!nearest.client_bound).then(|| {
        format!(
            "At 80 % of the highest rate, {} requests/s, {} answers in {} ms (p50) and {} ms (p{percent}).",
            number(nearest.rate),
            server.name,
            number(median),
            number(tail)
        )
    })
}

/// A row for each of these points.
pub(super) fn points(server: &Server<'_>, points: &[&Point], objectives: &[String]) -> Table {
    let percents = server.percents();
    let mut columns: Vec<String> = ["requests/s offered", "of the highest", "requests", "p50 ms"]
        .map(Into::into)
        .into();
    columns.extend(percents.iter().map(|percent| format!("p{percent} ms")));
    for objective in objectives {
        columns.push(format!("goodput/s, {objective}"));
    }
    columns.extend(["failed", "sent late ms", "ended", "note"].map(Into::into));
    let mut table = Table::new(&columns);
    for point in points {
        let own = |cell: String| if point.client_bound { "-".into() } else { cell };
        let of_highest = server.highest().map_or("-".into(), |highest| {
            format!("{:.0} %", 100.0 * point.rate / highest)
        });
        let mut cells = vec![number(point.rate), of_highest, point.requests.to_string()];
        let median = percentile(point, 50.0).and_then(|percentile| percentile.ms);
        cells.push(own(median.map_or("-".into(), number)));
        for &percent in &percents {
            cells.push(own(with_interval(point, percent)));
        }
        for objective in objectives {
            cells.push(own(goodput(point, objective)));
        }
        cells.push(causes(point));
        cells.push(point.late_ms.map_or("-".into(), |late| number(late.p99)));
        cells.push(point.ended.clone());
        cells.push(
            if point.client_bound {
                "the client was late"
            } else {
                "-"
            }
            .into(),
        );
        table.row(cells);
    }
    table.without_empty_columns()
}

fn with_interval(point: &Point, percent: f64) -> String {
    let Some(percentile) = percentile(point, percent) else {
        return "-".into();
    };
    match (percentile.ms, percentile.known_to) {
        (None, _) => "-".into(),
        (Some(ms), None) => format!("{} or more", number(ms)),
        (Some(ms), Some(known_to)) => format!("{} ±{:.0}%", number(ms), 100.0 * known_to),
    }
}

fn goodput(point: &Point, objective: &str) -> String {
    judged(point, objective).map_or("-".into(), |judged| {
        let kept = match (judged.kept, judged.decided) {
            (true, true) => "kept",
            (true, false) => "seems kept",
            (false, true) => "broken",
            (false, false) => "seems broken",
        };
        format!("{}, {kept}", number(judged.goodput_per_s))
    })
}

/// Failures by cause.
fn causes(point: &Point) -> String {
    let share = |count: u64| 100.0 * count as f64 / point.requests.max(1) as f64;
    let causes = point
        .errors
        .iter()
        .map(|(cause, &count)| format!("{count} x {cause} ({:.1} %)", share(count)));
    match point.errors.is_empty() {
        true => "0".into(),
        false => causes.collect::<Vec<_>>().join(", "),
    }
}

fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "unknown".into())
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}
