//! From runs to series: what can be compared with each other, and nothing else.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    metrics::{COUNT, METRICS, Pass},
    source::{Facts, Measured},
    verdict::Band,
};
use crate::{
    report::record::{Native, Record},
    stats::Latency,
};

/// What a series is of, apart from the way it was run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) recipe: String,
    pub(super) machine: String,
    pub(super) device: String,
    pub(super) dtype: String,
    pub(super) weights: String,
    pub(super) inputs: String,
    pub(super) threads: usize,
}

impl Subject {
    /// What tells it from most others.
    pub(super) fn name(&self) -> String {
        let Self {
            recipe,
            machine,
            device,
            dtype,
            ..
        } = self;
        format!("{recipe} on {machine}, {device}, {dtype}")
    }

    /// The rest.
    pub(super) fn about(&self) -> String {
        let mut parts = Vec::new();
        if !self.weights.is_empty() {
            parts.push(format!("weights {}", self.weights));
        }
        if !self.inputs.is_empty() {
            parts.push(format!("inputs {}", self.inputs));
        }
        if self.threads > 0 {
            parts.push(format!("{} threads in process", self.threads));
        }
        parts.join("; ")
    }
}

/// How a recipe was run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Native {
        batch: usize,
        in_flight: usize,
    },
    Served {
        batch: usize,
        concurrency: usize,
        /// Requests a second in an open loop.
        rate: Option<String>,
    },
    Streamed {
        source: String,
        table: String,
    },
    Model {
        shape: Vec<usize>,
    },
    Steps {
        action: String,
        shape: Vec<usize>,
        copies_excluded: bool,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native {
                batch,
                in_flight: 1,
            } => write!(f, "native, batch {batch}"),
            Self::Native { batch, in_flight } => {
                write!(f, "native, batch {batch}, {in_flight} of them in flight")
            }
            Self::Served {
                batch,
                concurrency,
                rate,
            } => {
                write!(f, "served, batch {batch}, {concurrency} in flight")?;
                rate.iter()
                    .try_for_each(|rate| write!(f, ", {rate} requests/s"))
            }
            Self::Streamed { source, table } => write!(f, "streamed, {source} to {table}"),
            // A mixed batch has a length for each item.
            Self::Model { shape } if shape.len() > 4 => {
                let most = shape.iter().max().copied().unwrap_or(0);
                write!(f, "model alone, {} of up to {most}", shape.len())
            }
            Self::Model { shape } => write!(f, "model alone, {shape:?}"),
            Self::Steps {
                action,
                shape,
                copies_excluded,
            } => {
                let without = if *copies_excluded {
                    ", without copies"
                } else {
                    ""
                };
                write!(f, "steps of {action}, {shape:?}{without}")
            }
        }
    }
}

/// Runs that can be compared.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) subject: Subject,
    pub(super) mode: Mode,
    /// In the order of their dates; there is at least one.
    pub(super) points: Vec<Point>,
}

impl Series {
    /// The run that was last.
    pub(super) fn last(&self) -> &Point {
        &self.points[self.points.len() - 1]
    }

    /// A metric over runs, where it was measured.
    pub(super) fn bands(&self, metric: usize) -> Vec<Band> {
        let bands = self.points.iter().filter_map(|point| point.values[metric]);
        bands.collect()
    }
}

/// A run's figures of a series.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) date: String,
    pub(super) version: String,
    pub(super) folder: String,
    /// For each metric, what its repeats measured.
    pub(super) values: [Option<Band>; COUNT],
}

/// The series of some runs, by subject and mode.
pub(super) fn series(runs: &[Measured]) -> Vec<Series> {
    // By date first, so that points come in order.
    let mut found = BTreeMap::<(Subject, Mode), BTreeMap<(&str, usize), Vec<Pass>>>::new();
    for (number, run) in runs.iter().enumerate() {
        let natives = natives(&run.records);
        for record in &run.records {
            if let Some((subject, mode, pass)) = pass(&run.facts, &natives, record) {
                let points = found.entry((subject, mode)).or_default();
                let point = points.entry((&run.facts.date, number)).or_default();
                point.push(pass);
            }
        }
    }
    let all = found.into_iter().map(|((subject, mode), points)| Series {
        subject,
        mode,
        points: points
            .into_iter()
            .map(|((date, number), passes)| Point {
                date: date.to_owned(),
                version: version(&runs[number].facts),
                folder: runs[number].folder.clone(),
                values: std::array::from_fn(|metric| {
                    Band::of(passes.iter().filter_map(METRICS[metric].value))
                }),
            })
            .collect(),
    });
    all.collect()
}

fn version(facts: &Facts) -> String {
    match &facts.commit {
        Some(commit) => format!("{} ({commit})", facts.version),
        None => facts.version.clone(),
    }
}

/// Items a second of native passes, by batch size and repeat.
fn natives(records: &[Record]) -> BTreeMap<(usize, usize), f64> {
    let natives = records.iter().filter_map(|record| match record {
        Record::Native(Native {
            batch,
            repeat,
            items_per_s,
            ..
        }) => Some(((*batch, *repeat), *items_per_s)),
        _ => None,
    });
    natives.collect()
}

/// What a pass measured, and of what; none for records that are no pass of one build alone.
fn pass(
    facts: &Facts,
    natives: &BTreeMap<(usize, usize), f64>,
    record: &Record,
) -> Option<(Subject, Mode, Pass)> {
    let mut subject = Subject {
        recipe: facts.recipe.clone().unwrap_or_default(),
        machine: facts.machine.clone(),
        device: facts.device.clone(),
        dtype: facts.dtype.clone(),
        weights: facts.weights.clone(),
        inputs: facts.inputs.clone(),
        threads: facts.threads,
    };
    let (mode, pass) = match record {
        Record::Native(native) => {
            subject.device = native.device.clone().unwrap_or(subject.device);
            subject.dtype = native.dtype.clone().unwrap_or(subject.dtype);
            let batches = native.examples.div_ceil(native.batch.max(1));
            let mode = Mode::Native {
                batch: native.batch,
                in_flight: native.batches_in_flight.unwrap_or(1),
            };
            let pass = Pass::of(native.items_per_s, Some(native.latency_ms), batches);
            (mode, pass)
        }
        Record::Served(served) => {
            let native = natives.get(&(served.batch, served.repeat));
            let pass = Pass {
                over_native: native.map(|native| served.items_per_s / native),
                ..Pass::of(served.items_per_s, served.latency_ms, served.requests)
            };
            let mode = Mode::Served {
                batch: served.batch,
                concurrency: served.concurrency,
                rate: served.rate.map(|rate| rate.to_string()),
            };
            (mode, pass)
        }
        Record::Streamed(streamed) => {
            let latency = Some(streamed.latency_ms);
            let pass = Pass {
                over_native: Some(streamed.native_ratio),
                ..Pass::of(streamed.items_per_s, latency, streamed.examples)
            };
            let mode = Mode::Streamed {
                source: streamed.source.clone(),
                table: streamed.table.clone(),
            };
            (mode, pass)
        }
        Record::Model(model) => {
            subject.recipe.clone_from(&model.model);
            subject.dtype.clone_from(&model.dtype);
            subject.weights.clone_from(&model.weights);
            let pass = Pass {
                p50_ms: Some(model.ms),
                ..Pass::of(model.items_per_s, None, model.runs)
            };
            let shape = model.shape.clone();
            (Mode::Model { shape }, pass)
        }
        Record::Steps(steps) => {
            subject.recipe.clone_from(&steps.model);
            subject.device.clone_from(&steps.device);
            subject.dtype.clone_from(&steps.precision);
            let times = &steps.step_ms.0;
            let seconds = times.iter().sum::<f64>() / 1e3;
            let latencies: Vec<Duration> = (times.iter())
                .map(|ms| Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default())
                .collect();
            let rate = steps.batch as f64 * times.len() as f64 / seconds;
            let pass = Pass::of(rate, Some(Latency::of(latencies)?), times.len());
            let mode = Mode::Steps {
                action: steps.action.clone(),
                shape: steps.shape.clone(),
                copies_excluded: steps.copies_excluded,
            };
            (mode, pass)
        }
        Record::Run(_)
        | Record::Agreement(_)
        | Record::Loaded(_)
        | Record::Missing(_)
        | Record::Point(_)
        | Record::Found(_)
        | Record::Round(_)
        | Record::Ended(_) => return None,
    };
    Some((subject, mode, pass))
}
