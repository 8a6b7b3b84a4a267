//! The sections that compare: the best of all, scaling over batch sizes, dtypes, devices, answers.

use super::{
    Report,
    advice::{fastest, knee, quickest, thriftiest},
    rows::{Row, at, batches, series},
};
use crate::report::{
    cells::{a_day, number},
    document::{Document, Table},
};

impl Report<'_> {
    pub(super) fn optimal(&self, document: &mut Document) {
        document.section("Optimal configurations");
        let mut table = Table::new(&[
            "for",
            "device and dtype",
            "batch",
            "items/s",
            "items a day",
            "p50 ms",
            "J an item",
        ]);
        let mut row = |aim: &str, row: Option<&Row>| {
            if let Some(row) = row {
                table.row([
                    aim.into(),
                    row.series(),
                    row.batch.to_string(),
                    number(row.items_per_s.mean),
                    a_day(row.items_per_s.mean),
                    number(row.latency.p50),
                    row.joules.map_or("-".into(), number),
                ]);
            }
        };
        row("most throughput", fastest(&self.rows));
        row("least latency", quickest(&self.rows));
        row("least energy", thriftiest(&self.rows));
        let all = series(&self.rows);
        if all.len() > 1 {
            for series in &all {
                row("most throughput of its kind", fastest(series));
            }
        }
        for series in &all {
            row("95 % of that, smallest batch", knee(series));
        }
        document.table(table.without_empty_columns());
    }

    pub(super) fn scaling(&self, document: &mut Document) {
        if batches(&self.rows).len() < 2 {
            return;
        }
        document.section("Scaling over batch sizes");
        document.text("Throughput over that of the smallest batch (above 1, batching pays):");
        document.table(self.grid(|row, first| row.items_per_s.mean / first.items_per_s.mean));
        document.text("Latency of a batch over that of the smallest batch, p50:");
        document.table(self.grid(|row, first| row.latency.p50 / first.latency.p50));
        document.text(
            "Efficiency as throughput for each item of a batch, over that of the smallest batch. It falls wherever throughput grows \
             less than the batch does, also where it grows:",
        );
        document.table(self.grid(|row, first| {
            let each = |row: &Row| row.items_per_s.mean / row.batch as f64;
            each(row) / each(first)
        }));
    }

    /// A line for each device and dtype, a column for each batch size: a figure of a row and the first of its line.
    fn grid(&self, value: fn(&Row, &Row) -> f64) -> Table {
        let lines = series(&self.rows).into_iter().map(|series| {
            let ratio = |row: &Row| (row.batch, value(row, &series[0]));
            (series[0].series(), series.iter().map(ratio).collect())
        });
        self.over_batches(lines)
    }

    /// Series beside those that they are compared with, as ratios of throughputs.
    fn ratios(&self, pairs: &[(&[Row], &[Row])]) -> Table {
        let lines = pairs.iter().map(|&(of, over)| {
            let name = format!("{} over {}", of[0].series(), over[0].series());
            let ratio = |row: &Row| {
                let other = at(over, row.batch)?;
                Some((row.batch, row.items_per_s.mean / other.items_per_s.mean))
            };
            (name, of.iter().filter_map(ratio).collect())
        });
        self.over_batches(lines)
    }

    /// Names and their ratios, each of a batch size.
    fn over_batches(&self, lines: impl Iterator<Item = (String, Vec<(usize, f64)>)>) -> Table {
        let batches = batches(&self.rows);
        let mut columns = vec![String::new()];
        columns.extend(batches.iter().map(|batch| format!("batch {batch}")));
        let mut table = Table::new(&columns);
        for (name, ratios) in lines {
            let cell = |&batch: &usize| {
                let ratio = ratios.iter().find(|&&(size, _)| size == batch);
                ratio.map_or("-".into(), |(_, ratio)| format!("{ratio:.2}"))
            };
            table.row(std::iter::once(name).chain(batches.iter().map(cell)));
        }
        table
    }

    pub(super) fn dtype_speed_ups(&self, document: &mut Document) {
        let all = series(&self.rows);
        let exact = |of: &Row| {
            all.iter()
                .find(|other| other[0].place == of.place && other[0].dtype == "f32")
        };
        let pairs: Vec<_> = all
            .iter()
            .filter(|of| of[0].dtype != "f32")
            .filter_map(|of| Some((*of, *exact(&of[0])?)))
            .collect();
        if !pairs.is_empty() {
            document.section("Dtype speed-ups");
            document.text("Throughput over that of f32 on the same device (above 1, the dtype is faster than f32):");
            document.table(self.ratios(&pairs));
        }
    }

    pub(super) fn device_speed_ups(&self, document: &mut Document) {
        let all = series(&self.rows);
        let Some(first) = all.iter().find(|series| series[0].is_cpu).or(all.first()) else {
            return;
        };
        let base = |dtype: &str| {
            let same =
                |other: &&&[Row]| other[0].place == first[0].place && other[0].dtype == dtype;
            all.iter().find(same).unwrap_or(first)
        };
        let others = all.iter().filter(|of| of[0].place != first[0].place);
        let pairs: Vec<_> = others.map(|of| (*of, *base(&of[0].dtype))).collect();
        if !pairs.is_empty() {
            document.section("Device speed-ups");
            document.text(format!(
                "Throughput over that of {} in the same dtype, or in {} where it has not that one (above 1, the device is faster):",
                first[0].place, first[0].dtype
            ));
            document.table(self.ratios(&pairs));
        }
    }

    pub(super) fn agreeing(&self, document: &mut Document) {
        document.section("Agreement of the answers with f32");
        if self.agreement.is_empty() {
            document.text("Not measured: see below.");
            return;
        }
        document.text(
            "The same inputs on the CPU in f32 and so. A label is what the highest logit of a row chooses; a score is the row's softmax.",
        );
        let mut table = Table::new(&[
            "device and dtype",
            "labels that agree",
            "inputs whose labels all agree",
            "largest difference of a score",
            "largest of a logit",
        ]);
        let share = |part: usize, of: usize| {
            format!(
                "{part} of {of} ({:.2} %)",
                100.0 * part as f64 / of.max(1) as f64
            )
        };
        for (place, figure) in &self.agreement {
            table.row([
                format!("{place}, {}", figure.dtype),
                share(figure.agreeing_labels, figure.labels),
                share(figure.agreeing_examples, figure.examples),
                figure
                    .largest_score_difference
                    .map_or("-".into(), |score| format!("{score:.5}")),
                format!("{:.4}", figure.largest_deviation),
            ]);
        }
        document.table(table);
    }
}
