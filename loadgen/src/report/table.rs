//! Tables in Markdown, written from records alone.

use std::collections::BTreeSet;

use super::{
    cells::{mebibytes, number, seconds},
    client,
    document::{Document, Table},
    matrix,
    record::{Agreement, Model, Native, Record, Run, Served},
    stream,
};
use crate::stats::{Repeats, STEADY_REQUESTS_PER_USER, is_steady};

/// The tables of a run, with what must be known to read them.
pub(super) fn document(run: &Run, records: &[Record]) -> Document {
    let figures = Figures::of(records);
    let recipe = run.recipe.as_deref().unwrap_or(&run.what);
    let mut document = Document::new(format!("{recipe}: {}", run.what));
    document.text(heading(run));
    if matches!(run.what.as_str(), "matrix" | "native" | "served") {
        document.plots(matrix::plots(records));
    }
    match run.what.as_str() {
        "matrix" => {
            document.table(both(run, &figures));
            document.text("Native, in this process:");
            document.table(native(run, &figures));
        }
        "native" => document.table(native(run, &figures)),
        "served" => document.table(served(run, &figures)),
        "agreement" => document.table(agreement(&figures)),
        "stream" => stream::write(run, records, &mut document),
        _ => document.table(model(&figures)),
    }
    document.list(notes(run, &figures));
    document
}

/// The same in Markdown.
pub fn render(run: &Run, records: &[Record]) -> String {
    document(run, records).to_markdown()
}

/// Records by kind.
struct Figures<'a> {
    native: Vec<&'a Native>,
    served: Vec<&'a Served>,
    model: Vec<&'a Model>,
    agreement: Vec<&'a Agreement>,
}

impl<'a> Figures<'a> {
    fn of(records: &'a [Record]) -> Self {
        let mut figures = Self {
            native: Vec::new(),
            served: Vec::new(),
            model: Vec::new(),
            agreement: Vec::new(),
        };
        for record in records {
            match record {
                Record::Native(native) => figures.native.push(native),
                Record::Served(served) => figures.served.push(served),
                Record::Model(model) => figures.model.push(model),
                Record::Agreement(agreement) => figures.agreement.push(agreement),
                _ => (),
            }
        }
        figures
    }

    fn native_at(&self, batch: usize) -> Vec<&'a Native> {
        let mut passes = self.native.clone();
        passes.retain(|pass| pass.batch == batch);
        passes
    }

    /// Seconds of the fastest native batch size, with prepare.
    fn best_native(&self) -> Option<f64> {
        let batches: BTreeSet<_> = self.native.iter().map(|pass| pass.batch).collect();
        batches
            .into_iter()
            .filter_map(|batch| Some(native_seconds(&self.native_at(batch))?.mean))
            .min_by(f64::total_cmp)
    }

    /// Served passes cell by cell: batch, concurrency, passes.
    fn cells(&self) -> Vec<(usize, usize, Vec<&'a Served>)> {
        let keys: BTreeSet<_> = self
            .served
            .iter()
            .map(|pass| (pass.batch, pass.concurrency))
            .collect();
        keys.into_iter()
            .map(|(batch, concurrency)| {
                let mut passes = self.served.clone();
                passes.retain(|pass| (pass.batch, pass.concurrency) == (batch, concurrency));
                (batch, concurrency, passes)
            })
            .collect()
    }
}

fn native_seconds(passes: &[&Native]) -> Option<Repeats> {
    Repeats::of(passes.iter().map(|pass| pass.seconds))
}

fn heading(run: &Run) -> String {
    if run.what == "agreement" {
        let exact = match run.device.as_str() {
            "cpu" => "f32",
            _ => "f32 on the CPU",
        };
        format!(
            "{} against {exact} on {} distinct examples; weights {}, on {}, {}.",
            run.dtype, run.examples, run.weights, run.device, run.machine.name,
        )
    } else if run.corpus.is_some() {
        let (figures, of) = match run.what.as_str() {
            "stream" => ("Rates over", "median"),
            _ => ("Seconds for", "mean"),
        };
        format!(
            "{figures} {} distinct examples{}, {of} of {} on {}; weights {}, {} on {}.",
            run.examples,
            shrunk(run),
            count(run.repeats, "run"),
            run.machine.name,
            run.weights,
            run.dtype,
            run.device,
        )
    } else {
        format!(
            "The median of each, on {}; {} on {}.",
            run.machine.name, run.dtype, run.device
        )
    }
}

fn shrunk(run: &Run) -> String {
    if run.examples < run.examples_wanted {
        format!(" ({} wanted, shrunk by --seconds)", run.examples_wanted)
    } else {
        String::new()
    }
}

fn both(run: &Run, figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "Recipe",
        "Batch Size",
        "Native",
        "Req Concurrency",
        "served",
        "served / native",
        "served / best native",
        "p50 ms",
        "p99 ms",
        "errors",
        "note",
    ]);
    let best = figures.best_native();
    for (batch, concurrency, passes) in figures.cells() {
        let native = native_seconds(&figures.native_at(batch));
        let served = Repeats::of(passes.iter().map(|pass| pass.seconds));
        let ratio = |to: Option<f64>| match (served, to) {
            (Some(served), Some(to)) if to > 0.0 => format!("{:.2}", served.mean / to),
            _ => "-".into(),
        };
        table.row([
            run.recipe.clone().unwrap_or_default(),
            batch.to_string(),
            seconds(native),
            concurrency.to_string(),
            seconds(served),
            ratio(native.map(|native| native.mean)),
            ratio(best),
            latency(&passes, |pass| Some(pass.latency_ms?.p50)),
            latency(&passes, |pass| Some(pass.latency_ms?.p99)),
            errors(&passes),
            mark(&passes),
        ]);
    }
    table
}

fn native(run: &Run, figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "Recipe",
        "Batch Size",
        "Native",
        "without prepare",
        "items/s",
        "items/s without prepare",
        "p50 ms",
        "p99 ms",
        "peak memory",
    ]);
    let batches: BTreeSet<_> = figures.native.iter().map(|pass| pass.batch).collect();
    for batch in batches {
        let passes = figures.native_at(batch);
        let mean = |value: fn(&Native) -> f64| {
            Repeats::of(passes.iter().map(|pass| value(pass))).map_or(0.0, |repeats| repeats.mean)
        };
        let without = passes
            .iter()
            .map(|pass| pass.seconds - pass.prepare_seconds);
        let memory = passes.iter().filter_map(|pass| pass.peak_rss_bytes).max();
        table.row([
            run.recipe.clone().unwrap_or_default(),
            match passes.first().and_then(|pass| pass.batches_in_flight) {
                Some(in_flight) => format!("{batch}, {in_flight} in flight"),
                None => batch.to_string(),
            },
            seconds(native_seconds(&passes)),
            seconds(Repeats::of(without)),
            number(mean(|pass| pass.items_per_s)),
            number(mean(|pass| pass.items_per_s_without_prepare)),
            number(mean(|pass| pass.latency_ms.p50)),
            number(mean(|pass| pass.latency_ms.p99)),
            mebibytes(memory),
        ]);
    }
    table
}

fn served(run: &Run, figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "Recipe",
        "Batch Size",
        "Req Concurrency",
        "served",
        "items/s",
        "requests/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "errors",
        "note",
    ]);
    for (batch, concurrency, passes) in figures.cells() {
        let mean = |value: fn(&Served) -> f64| {
            Repeats::of(passes.iter().map(|pass| value(pass))).map_or(0.0, |repeats| repeats.mean)
        };
        table.row([
            run.recipe.clone().unwrap_or_default(),
            batch.to_string(),
            concurrency.to_string(),
            seconds(Repeats::of(passes.iter().map(|pass| pass.seconds))),
            number(mean(|pass| pass.items_per_s)),
            number(mean(|pass| pass.requests_per_s)),
            latency(&passes, |pass| Some(pass.latency_ms?.p50)),
            latency(&passes, |pass| Some(pass.latency_ms?.p90)),
            latency(&passes, |pass| Some(pass.latency_ms?.p99)),
            latency(&passes, |pass| Some(pass.latency_ms?.p99_9)),
            errors(&passes),
            mark(&passes),
        ]);
    }
    table
}

fn model(figures: &Figures) -> Table {
    let mut table = Table::new(&["model", "batch", "shape", "ms", "items/s", "runs"]);
    for figure in &figures.model {
        table.row([
            figure.model.clone(),
            figure.batch.to_string(),
            format!("{:?}", figure.shape),
            format!("{:.3}", figure.ms),
            number(figure.items_per_s),
            figure.runs.to_string(),
        ]);
    }
    table
}

fn agreement(figures: &Figures) -> Table {
    let mut table = Table::new(&[
        "recipe",
        "labels that agree",
        "examples whose labels all agree",
        "largest deviation of a logit",
        "mean deviation",
        "spread of the logits",
    ]);
    let share = |part: usize, of: usize| {
        let percent = 100.0 * part as f64 / of.max(1) as f64;
        format!("{part} of {of} ({percent:.3} %)")
    };
    for figure in &figures.agreement {
        table.row([
            figure.model.clone(),
            share(figure.agreeing_labels, figure.labels),
            share(figure.agreeing_examples, figure.examples),
            format!("{:.4}", figure.largest_deviation),
            format!("{:.5}", figure.mean_deviation),
            format!("{:.3}", figure.logit_spread),
        ]);
    }
    table
}

fn notes(run: &Run, figures: &Figures) -> Vec<String> {
    let mut notes = Vec::new();
    if run.repeats > 1 && run.corpus.is_some() {
        notes.push(
            "±: half the distance between the fastest and the slowest repeat, of the mean."
                .to_owned(),
        );
    }
    if !figures.native.is_empty() && !figures.served.is_empty() {
        notes.push(
            "Ratios compare with native time including prepare; the best native is the fastest of all batch sizes here. \
             p50 and p99 are those of a request."
                .to_owned(),
        );
    }
    if figures.served.iter().any(|pass| !steady(pass)) {
        notes.push(format!(
            "short: fewer than {STEADY_REQUESTS_PER_USER} requests for each that is in flight. Much of such a run is its \
             beginning and its end, so that it says little of steady serving."
        ));
    }
    let cells = figures.cells();
    notes.extend(client::notes(
        cells.iter().map(|(_, _, passes)| client::bound(passes)),
    ));
    for (batch, concurrency, passes) in cells {
        let kinds: BTreeSet<_> = passes.iter().flat_map(|pass| pass.errors.keys()).collect();
        for kind in kinds {
            let sum: u64 = passes.iter().filter_map(|pass| pass.errors.get(kind)).sum();
            notes.push(format!(
                "errors at batch {batch}, concurrency {concurrency}: {sum} x {kind}"
            ));
        }
    }
    if let Some(rate) = figures.served.iter().find_map(|pass| pass.rate) {
        notes.push(format!(
            "Open loop: {} requests a second were offered; latencies count from when a request was due.",
            number(rate)
        ));
    }
    notes
}

fn steady(pass: &Served) -> bool {
    pass.rate.is_some() || is_steady(pass.requests, pass.concurrency)
}

fn mark(passes: &[&Served]) -> String {
    let short = !passes.iter().all(|pass| steady(pass));
    let marks = short.then_some("short").into_iter();
    let marks: Vec<_> = marks.chain(client::bound(passes).mark()).collect();
    marks.join(", ")
}

fn errors(passes: &[&Served]) -> String {
    let errors: u64 = passes.iter().map(|pass| pass.error_count()).sum();
    errors.to_string()
}

fn latency(passes: &[&Served], value: fn(&Served) -> Option<f64>) -> String {
    Repeats::of(passes.iter().filter_map(|pass| value(pass)))
        .map_or("-".into(), |repeats| number(repeats.mean))
}

fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}
