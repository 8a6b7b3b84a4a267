//! What was measured, a row for each device, dtype and batch size, from the records of all its passes.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    report::{
        folder::Part,
        record::{Native, Record},
    },
    stats::{Latency, Repeats},
};

/// A device in a dtype at a batch size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// The device, and its machine where there are several: `cpu`, `cuda:0 of h200-16core`.
    pub(super) place: String,
    pub(super) is_cpu: bool,
    pub(super) dtype: String,
    pub(super) batch: usize,
    pub(super) passes: usize,
    /// Batches that were timed, in all passes.
    pub(super) batches: usize,
    /// Of a batch: prepare, forward and finish.
    pub(super) latency: Latency,
    pub(super) items_per_s: Repeats,
    /// The mean of a batch's stages.
    pub(super) prepare_ms: f64,
    pub(super) forward_ms: f64,
    pub(super) finish_ms: f64,
    /// What an item costs in the mean, in the recipe's unit.
    pub(super) cost: Option<f64>,
    /// The process's peak memory, in the first pass: later ones may hold what a larger batch left.
    pub(super) resident_bytes: Option<u64>,
    /// The device's, likewise.
    pub(super) device_bytes: Option<u64>,
    /// For an item.
    pub(super) joules: Option<f64>,
    pub(super) watts: Option<f64>,
    pub(super) energy_source: Option<String>,
    pub(super) clock_mhz: Option<f64>,
    pub(super) throttled: Vec<String>,
}

impl Row {
    /// The device and dtype, which a line of a plot stands for.
    pub(super) fn series(&self) -> String {
        format!("{}, {}", self.place, self.dtype)
    }

    /// A percentile of the latency, where there were batches enough to have one above it.
    pub(super) fn percentile(&self, percent: f64, value: f64) -> Option<f64> {
        let above = self.batches as f64 * (1.0 - percent / 100.0);
        (above >= 1.0 - 1e-9).then_some(value)
    }

    /// The part of a batch's time that is spent outside the model.
    pub(super) fn outside_model(&self) -> f64 {
        let outside = self.prepare_ms + self.finish_ms;
        outside / (outside + self.forward_ms).max(1e-9)
    }
}

/// The rows of all parts, in the order in which devices and dtypes were measured, batches ascending.
pub(super) fn rows(parts: &[Part]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let mut series: Vec<(&str, &str)> = Vec::new();
        let mut cells: BTreeMap<(usize, usize), Vec<&Native>> = BTreeMap::new();
        for record in &part.records {
            let Record::Native(native) = record else {
                continue;
            };
            let key = (
                native.device.as_deref().unwrap_or(&part.run.device),
                native.dtype.as_deref().unwrap_or(&part.run.dtype),
            );
            let at = series
                .iter()
                .position(|known| *known == key)
                .unwrap_or_else(|| {
                    series.push(key);
                    series.len() - 1
                });
            cells.entry((at, native.batch)).or_default().push(native);
        }
        for ((at, batch), passes) in cells {
            let (device, dtype) = series[at];
            rows.push(Row {
                is_cpu: device == "cpu",
                batch,
                ..row(place(parts, index, device), dtype, &passes)
            });
        }
    }
    rows
}

/// What a device of a part is called: by its machine too where there are several, and by its date where it was measured twice.
pub(super) fn place(parts: &[Part], part: usize, device: &str) -> String {
    let of = &parts[part].run;
    let others = || {
        parts
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != part)
            .map(|(_, part)| &part.run)
    };
    let mut place = device.to_owned();
    if others().any(|other| other.machine.name != of.machine.name) {
        place = format!("{place} of {}", of.machine.name);
    }
    let same = |other: &&crate::report::record::Run| {
        other.machine.name == of.machine.name
            && other.device.split(',').any(|name| name == device)
            && other
                .dtype
                .split(',')
                .any(|dtype| of.dtype.split(',').any(|own| own == dtype))
    };
    if others().any(|other| same(&other)) {
        place = format!("{place}, {}", of.date);
    }
    place
}

fn row(place: String, dtype: &str, passes: &[&Native]) -> Row {
    let mut totals = Vec::new();
    let [mut prepare, mut forward, mut finish] = [0.0; 3];
    for samples in passes.iter().filter_map(|pass| pass.samples.as_ref()) {
        let (p, f, e) = (
            &samples.prepare_ms.0,
            &samples.forward_ms.0,
            &samples.finish_ms.0,
        );
        totals.extend(p.iter().zip(f).zip(e).map(|((p, f), e)| p + f + e));
        prepare += p.iter().sum::<f64>();
        forward += f.iter().sum::<f64>();
        finish += e.iter().sum::<f64>();
    }
    let batches = totals.len();
    let count = batches.max(1) as f64;
    let times = totals
        .into_iter()
        .filter_map(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
    let mean = |values: Vec<f64>| Repeats::of(values).map(|repeats| repeats.mean);
    let first = passes.iter().filter(|pass| pass.repeat == 0);
    let energies: Vec<_> = passes
        .iter()
        .filter_map(|pass| Some((pass.energy.as_ref()?, pass.examples)))
        .collect();
    let joules: f64 = energies.iter().map(|(energy, _)| energy.joules).sum();
    let seconds: f64 = energies.iter().map(|(energy, _)| energy.seconds).sum();
    let items: usize = energies.iter().map(|(_, items)| items).sum();
    let mut throttled: Vec<String> = energies
        .iter()
        .flat_map(|(energy, _)| energy.throttled.clone())
        .collect();
    throttled.sort_unstable();
    throttled.dedup();
    let still = Repeats {
        mean: 0.0,
        median: 0.0,
        spread: 0.0,
    };
    Row {
        place,
        is_cpu: false,
        dtype: dtype.into(),
        batch: 0,
        passes: passes.len(),
        batches,
        latency: Latency::of(times.collect()).unwrap_or_default(),
        items_per_s: Repeats::of(passes.iter().map(|pass| pass.items_per_s)).unwrap_or(still),
        prepare_ms: prepare / count,
        forward_ms: forward / count,
        finish_ms: finish / count,
        cost: mean(passes.iter().filter_map(|pass| pass.cost).collect()),
        resident_bytes: first.clone().filter_map(|pass| pass.peak_rss_bytes).max(),
        device_bytes: first.filter_map(|pass| pass.device_peak_bytes).max(),
        joules: (items > 0).then(|| joules / items as f64),
        watts: (seconds > 0.0).then(|| joules / seconds),
        energy_source: energies.first().map(|(energy, _)| energy.source.clone()),
        clock_mhz: mean(
            energies
                .iter()
                .filter_map(|(energy, _)| energy.clock_mhz)
                .collect(),
        ),
        throttled,
    }
}

/// Rows of one device and dtype, batches ascending, for each in order.
pub(super) fn series(rows: &[Row]) -> Vec<&[Row]> {
    rows.chunk_by(|a, b| (&a.place, &a.dtype) == (&b.place, &b.dtype))
        .collect()
}

/// The row of these at a batch size.
pub(super) fn at(rows: &[Row], batch: usize) -> Option<&Row> {
    rows.iter().find(|row| row.batch == batch)
}

/// All batch sizes, ascending.
pub(super) fn batches(rows: &[Row]) -> Vec<usize> {
    let mut batches: Vec<usize> = rows.iter().map(|row| row.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    batches
}
