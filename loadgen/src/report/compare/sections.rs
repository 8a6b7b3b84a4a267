//! What the report says of what was measured, where and how; `ratios` compares.

use std::collections::BTreeSet;

use super::{
    Report,
    advice::{fastest, quickest, thriftiest},
    rows::Row,
};
use crate::report::{
    cells::{a_day, number},
    document::{Table, Tile},
    record::Run,
};

impl Report<'_> {
    pub(super) fn heading(&self) -> String {
        let run = &self.parts[0].run;
        let inputs = match (run.length, self.loaded.first()) {
            (Some(length), Some((_, loaded))) => format!("texts of {length} {}", loaded.cost_unit),
            (Some(length), None) => format!("texts of length {length}"),
            (None, _) => run.corpus.clone().unwrap_or_else(|| "its corpus".into()),
        };
        let machines = self.machines();
        let place = match machines.len() {
            1 => format!("Measured on {} on {}.", machines[0], date(run)),
            count => format!(
                "Put together from parts that were measured on {count} machines ({}), each there and at its own time: ratios between \
                 them hold for these machines.",
                machines.join(", ")
            ),
        };
        format!(
            "{place} Weights {}; inputs: {inputs}. What a batch takes is from its inputs to its answers, reading them (decoding, \
             tokenizing) included.",
            self.loaded
                .first()
                .map_or(&run.weights, |(_, loaded)| &loaded.weights),
        )
    }

    /// The machines, each once.
    fn machines(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for part in self.parts {
            if !names.contains(&part.run.machine.name) {
                names.push(part.run.machine.name.clone());
            }
        }
        names
    }

    pub(super) fn tiles(&self) -> Vec<Tile> {
        let tile = |label: &str, row: &Row, value: String| Tile {
            label: label.into(),
            value,
            about: format!("{}, batch {}", row.series(), row.batch),
        };
        let mut tiles = Vec::new();
        if let Some(row) = fastest(&self.rows) {
            let rate = row.items_per_s.mean;
            tiles.push(tile(
                "most throughput",
                row,
                format!("{} items/s", number(rate)),
            ));
            tiles.push(tile("items a day", row, a_day(rate)));
        }
        if let Some(row) = quickest(&self.rows) {
            tiles.push(tile(
                "least latency, p50",
                row,
                format!("{} ms", number(row.latency.p50)),
            ));
        }
        if let Some((row, joules)) = thriftiest(&self.rows).and_then(|row| Some((row, row.joules?)))
        {
            tiles.push(tile(
                "least energy",
                row,
                format!("{} J an item", number(joules)),
            ));
        }
        tiles
    }

    pub(super) fn model(&self) -> Table {
        let mut table = Table::new(&["", ""]);
        let mut row = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                table.row([name.into(), value]);
            }
        };
        row("recipe", Some(self.recipe().into()));
        if let Some((_, loaded)) = self.loaded.first() {
            let model = &loaded.architecture;
            row("weights", Some(loaded.weights.clone()));
            row("parameters", model.parameters.map(thousands));
            let size = |parameters: u64| {
                format!("{:.1} MiB", parameters as f64 * 4.0 / f64::from(1 << 20))
            };
            row("their size in f32", model.parameters.map(size));
            row("layers", model.layers.map(|count| count.to_string()));
            row(
                "hidden size",
                model.hidden_size.map(|size| size.to_string()),
            );
            row(
                "attention heads",
                model.attention_heads.map(|count| count.to_string()),
            );
        }
        let costs: Vec<f64> = self.rows.iter().filter_map(|row| row.cost).collect();
        let mean = costs.iter().sum::<f64>() / costs.len().max(1) as f64;
        let unit = self
            .loaded
            .first()
            .map_or("", |(_, loaded)| &loaded.cost_unit);
        row(
            "an item, in the mean",
            (!costs.is_empty()).then(|| format!("{mean:.1} {unit}")),
        );
        table
    }

    /// A column for each part.
    pub(super) fn systems(&self) -> Table {
        let runs: Vec<&Run> = self.parts.iter().map(|part| &part.run).collect();
        let mut columns = vec![String::new()];
        columns.extend(runs.iter().map(|run| run.machine.name.clone()));
        let mut table = Table::new(&columns);
        let mut row = |name: &str, value: &dyn Fn(usize, &Run) -> String| {
            let cells = runs.iter().enumerate().map(|(part, run)| value(part, run));
            table.row(std::iter::once(name.to_owned()).chain(cells));
        };
        row("processor", &|_, run| {
            format!("{}, {} cores", run.machine.cpu, run.machine.cores)
        });
        row("memory", &|_, run| {
            let gibibytes = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
            run.machine.memory_bytes.map_or("unknown".into(), gibibytes)
        });
        row("devices", &|part, _| self.devices_of(part));
        row("system", &|_, run| {
            format!(
                "{} {}",
                run.machine.os,
                run.machine.kernel.as_deref().unwrap_or("")
            )
        });
        row("galley", &|_, run| match &run.commit {
            Some(commit) => format!("{} ({commit})", run.galley),
            None => run.galley.clone(),
        });
        row("threads", &|_, run| run.threads.to_string());
        row("passes", &|_, run| run.repeats.to_string());
        row("when", &|_, run| run.date.clone());
        row("command", &|_, run| format!("`{}`", run.command));
        table
    }

    fn devices_of(&self, part: usize) -> String {
        let mut names: Vec<String> = Vec::new();
        for record in &self.parts[part].records {
            let crate::report::record::Record::Loaded(loaded) = record else {
                continue;
            };
            let mut name = loaded.device.clone();
            if let Some(model) = &loaded.device_name {
                name = format!("{name}: {model}");
            }
            if let Some(bytes) = loaded.device_memory_bytes {
                name = format!("{name}, {} MiB", bytes >> 20);
            }
            if let Some(driver) = &loaded.driver {
                name = format!("{name}, driver {driver}");
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join("; ")
    }

    /// What loading took, of a row's device and dtype.
    pub(super) fn loading(&self, row: &Row) -> String {
        let of = self
            .loaded
            .iter()
            .find(|(place, loaded)| *place == row.place && loaded.dtype == row.dtype);
        of.map_or_else(String::new, |(_, loaded)| {
            let memory = loaded.resident_bytes.map_or_else(String::new, |bytes| {
                format!("; the process then held {} MiB", bytes >> 20)
            });
            format!("Loaded in {} s{memory}.", number(loaded.seconds))
        })
    }

    pub(super) fn not_measured(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for (place, missing) in &self.missing {
            let dtype = missing
                .dtype
                .as_ref()
                .map_or(String::new(), |dtype| format!(", {dtype}"));
            let batch = missing
                .batch
                .map_or(String::new(), |batch| format!(", batch {batch}"));
            lines.push(format!("{place}{dtype}{batch}: {}", missing.reason));
        }
        let places = |without: &dyn Fn(&Row) -> bool| {
            let places: BTreeSet<&str> = self
                .rows
                .iter()
                .filter(|row| without(row))
                .map(|row| row.place.as_str())
                .collect();
            (!places.is_empty()).then(|| places.into_iter().collect::<Vec<_>>().join(", "))
        };
        if let Some(places) = places(&|row| row.joules.is_none()) {
            lines.push(format!("Energy on {places}: there is no counter that may be read (NVML of a card, RAPL of a processor)."));
        }
        if let Some(places) = places(&|row| row.device_bytes.is_none() && !row.is_cpu) {
            lines.push(format!(
                "The device's memory on {places}: NVML does not answer."
            ));
        }
        let few = self
            .rows
            .iter()
            .filter(|row| row.percentile(99.9, 0.0).is_none())
            .count();
        if few > 0 {
            lines.push(format!(
                "p99.9 of {few} of {} configurations, and lower percentiles of some: fewer batches were timed than tell them \
                 (1000 for p99.9). `--seconds` gives each more time.",
                self.rows.len()
            ));
        }
        let first = &self.parts[0].run;
        for run in self.parts[1..].iter().map(|part| &part.run) {
            let differing: Vec<&str> = [
                (
                    "inputs",
                    (run.length, &run.corpus) != (first.length, &first.corpus),
                ),
                ("weights", run.weights != first.weights),
                (
                    "versions of galley",
                    (&run.galley, &run.commit) != (&first.galley, &first.commit),
                ),
            ]
            .into_iter()
            .filter_map(|(what, differs)| differs.then_some(what))
            .collect();
            if !differing.is_empty() {
                lines.push(format!(
                    "The same on all machines: {} and {} differ in {}.",
                    first.machine.name,
                    run.machine.name,
                    differing.join(", ")
                ));
            }
        }
        lines
    }

    pub(super) fn method(&self) -> Vec<String> {
        let run = &self.parts[0].run;
        vec![
            format!(
                "In this process, without a server: a batch is prepared on all cores, run on the device, and its answers are made on all \
                 cores, one after the other. `galley serve` overlaps these for different batches. {} passes over each size, sizes in \
                 turn, so that what changes with time changes all of them.",
                run.repeats
            ),
            format!(
                "{} distinct inputs, in turn where a pass takes more; others warm up before each pass and are not counted.",
                run.examples
            ),
            "`results.jsonl` has every batch's times; README says what else. `galley bench report` makes this report again, and with \
             several folders and `--out` one of all of them."
                .into(),
        ]
    }
}

fn date(run: &Run) -> &str {
    run.date.get(..10).unwrap_or(&run.date)
}

/// `66,955,010`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
