//! The report of SuperBench's model benchmarks: its metrics, by node, and beside them what it leaves out.

mod figures;
mod metrics;
mod peak;
mod sections;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use self::{
    figures::{Figures, percent},
    metrics::metrics,
};
use super::{
    cells::number,
    document::Document,
    folder::Part,
    record::{Ended, Record, Run, Steps},
};

/// Benchmarks, read from their records.
pub(super) struct Report<'a> {
    run: &'a Run,
    nodes: Vec<Node<'a>>,
}

/// A machine with the device that ran models on it.
struct Node<'a> {
    name: String,
    run: &'a Run,
    steps: Vec<&'a Steps>,
    ended: Vec<&'a Ended>,
}

impl<'a> Report<'a> {
    /// What the parts hold, of which there is at least one. Parts of one node are put together; where they have the same benchmark, the
    /// later one's counts.
    pub(super) fn of(parts: &'a [Part]) -> Self {
        let run = &parts[0].run;
        let mut nodes: Vec<Node<'a>> = Vec::new();
        for part in parts {
            let place = |run: &Run| (run.machine.name.clone(), run.device.clone());
            let here = nodes
                .iter()
                .position(|node| place(node.run) == place(&part.run));
            let here = here.unwrap_or_else(|| {
                nodes.push(Node {
                    name: part.run.machine.name.clone(),
                    run: &part.run,
                    steps: Vec::new(),
                    ended: Vec::new(),
                });
                nodes.len() - 1
            });
            nodes[here].add(&part.records);
        }
        // Of a machine with several devices each is a node of its own.
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        for node in &mut nodes {
            if names.iter().filter(|&name| *name == node.name).count() > 1 {
                node.name = format!("{}-{}", node.name, node.run.device);
            }
        }
        Self { run, nodes }
    }

    /// A JSON line for each node, as SuperBench's `results-summary.jsonl` has it: its metrics, and its name under `node`.
    pub(super) fn summary(&self) -> String {
        let line = |node: &Node<'_>| {
            let metrics = metrics(&node.steps, &node.ended).into_iter();
            let mut line: Map<String, Value> =
                metrics.map(|(name, value)| (name, value.into())).collect();
            line.insert("node".into(), node.name.clone().into());
            format!("{}\n", Value::Object(line))
        };
        self.nodes.iter().map(line).collect()
    }

    /// The whole report.
    pub(super) fn document(&self) -> Document {
        let mut document = Document::new("SuperBench's model benchmarks");
        document.text(self.heading());
        document.section("Steps");
        document.table(self.table());
        document.plots(self.plots());
        let remarks = self.remarks();
        if !remarks.rows.is_empty() {
            document.section("What did not run");
            document.table(remarks);
        }
        document.section("How it was measured");
        document.list(self.method());
        document
    }

    /// What a terminal shows: a line for each row of the table.
    pub(super) fn terminal(&self) -> String {
        let runs = self.steps().any(|(_, steps)| steps.run > 0);
        let rows: Vec<[String; 5]> = (self.steps())
            .map(|(_, steps)| {
                let figures = Figures::of(steps);
                let mut name = format!("{}, {}, {}", steps.model, steps.precision, steps.action);
                if runs {
                    name += &format!(", run {}", steps.run);
                }
                [
                    name,
                    format!("{} ms", number(figures.step_ms)),
                    format!("{} samples/s", number(figures.throughput)),
                    format!("{} TFLOP/s", number(figures.tflops)),
                    figures.of_peak.map_or(String::new(), percent),
                ]
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: [usize; 5] = std::array::from_fn(|column| width(column).unwrap_or(0));
        let mut lines: Vec<String> = rows
            .iter()
            .map(|[name, figures @ ..]| {
                let figures = figures.iter().zip(&widths[1..]);
                let figures: String = figures
                    .map(|(figure, &width)| format!("  {figure:>width$}"))
                    .collect();
                let width = widths[0];
                format!("{name:width$}{figures}").trim_end().to_owned()
            })
            .collect();
        for ended in self.nodes.iter().flat_map(|node| &node.ended) {
            for remark in &ended.remarks {
                let code = ended.return_code;
                lines.push(format!("{}, return code {code}: {remark}", ended.model));
            }
        }
        lines.join("\n")
    }

    /// All steps with the names of their nodes.
    fn steps(&self) -> impl Iterator<Item = (&str, &'a Steps)> {
        self.nodes.iter().flat_map(|node| {
            let name = node.name.as_str();
            node.steps.iter().map(move |&steps| (name, steps))
        })
    }
}

impl<'a> Node<'a> {
    fn add(&mut self, records: &'a [Record]) {
        let mut steps: Vec<&Steps> = Vec::new();
        for record in records {
            match record {
                Record::Steps(of_model) => steps.push(of_model),
                Record::Ended(ended) => {
                    self.ended
                        .retain(|other| other.benchmark != ended.benchmark);
                    self.ended.push(ended);
                }
                _ => (),
            }
        }
        (self.steps).retain(|earlier| !steps.iter().any(|steps| steps.same_as(earlier)));
        self.steps.extend(steps);
    }
}
