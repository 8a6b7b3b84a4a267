//! The report of a comparison: which device, which dtype, which batch size, and what each costs.
//!
//! `rows` makes rows of records, `columns` says what stands in them, `advice` what follows from them, `plots` draws them, `ratios`
//! compares them, and `sections` says the rest.

mod advice;
mod columns;
mod plots;
mod ratios;
mod rows;
mod sections;
#[cfg(test)]
mod tests;

use serde_json::json;

use self::{
    advice::advice,
    columns::{glossary, table},
    rows::{Row, batches, place, rows, series},
};
use super::{
    cells::spark,
    document::Document,
    folder::Part,
    record::{Agreement, Loaded, Missing, Record},
};

/// A comparison, read from its records.
pub(super) struct Report<'a> {
    parts: &'a [Part],
    rows: Vec<Row>,
    /// By the place that each is of, as rows name it.
    loaded: Vec<(String, &'a Loaded)>,
    missing: Vec<(String, &'a Missing)>,
    agreement: Vec<(String, &'a Agreement)>,
}

impl<'a> Report<'a> {
    /// What the parts hold, of which there is at least one.
    pub(super) fn of(parts: &'a [Part]) -> Self {
        let mut report = Self {
            parts,
            rows: rows(parts),
            loaded: Vec::new(),
            missing: Vec::new(),
            agreement: Vec::new(),
        };
        for (index, part) in parts.iter().enumerate() {
            let of = |device: &str| place(parts, index, device);
            for record in &part.records {
                match record {
                    Record::Loaded(loaded) => report.loaded.push((of(&loaded.device), loaded)),
                    Record::Missing(missing) => report.missing.push((of(&missing.device), missing)),
                    Record::Agreement(figure) => {
                        let device = figure.device.as_deref().unwrap_or("cpu");
                        report.agreement.push((of(device), figure));
                    }
                    _ => (),
                }
            }
        }
        report
    }

    fn recipe(&self) -> &str {
        self.parts[0].run.recipe.as_deref().unwrap_or("a recipe")
    }

    /// The whole report.
    pub(super) fn document(&self) -> Document {
        let mut document =
            Document::new(format!("{}: devices, dtypes, batch sizes", self.recipe()));
        document.text(self.heading());
        document.tiles(self.tiles());
        document.section("Recommendations");
        document.list(advice(&self.rows, &self.agreement));
        document.section("Over the batch size");
        document.plots(plots::over_batches(&self.rows));
        document.section("The model");
        document.table(self.model());
        document.section("The system");
        document.table(self.systems());
        document.section("Figures");
        for series in series(&self.rows) {
            document.part(series[0].series());
            document.text(self.loading(&series[0]));
            document.table(table(series));
        }
        self.optimal(&mut document);
        self.scaling(&mut document);
        self.dtype_speed_ups(&mut document);
        self.device_speed_ups(&mut document);
        self.agreeing(&mut document);
        document.section("What was not measured");
        document.list(self.not_measured());
        document.section("How it was measured");
        document.list(self.method());
        document.table(glossary(&self.rows));
        document
    }

    /// The rows for other programs.
    pub(super) fn to_json(&self) -> String {
        let report = json!({
            "schema": super::record::SCHEMA,
            "recipe": self.recipe(),
            "rows": columns::json(&self.rows),
            "recommendations": advice(&self.rows, &self.agreement),
            "not_measured": self.not_measured(),
        });
        format!("{report:#}\n")
    }

    /// What a terminal shows: a line for each device and dtype, and what follows.
    pub(super) fn terminal(&self) -> String {
        let mut lines = vec![
            format!("{}, batches of {}", self.recipe(), self.sizes()),
            String::new(),
        ];
        let all = series(&self.rows);
        let width = all
            .iter()
            .map(|series| series[0].series().chars().count())
            .max()
            .unwrap_or(0);
        lines.push(format!(
            "{:width$}  items/s over batch size{:14}p50 ms of a batch",
            "", ""
        ));
        for series in all {
            let rates: Vec<f64> = series.iter().map(|row| row.items_per_s.mean).collect();
            let times: Vec<f64> = series.iter().map(|row| row.latency.p50).collect();
            let name = series[0].series();
            lines.push(format!(
                "{name:width$}  {:36}  {}",
                spark(&rates),
                spark(&times)
            ));
        }
        for (heading, sentences) in [
            ("", advice(&self.rows, &self.agreement)),
            ("Not measured:", self.not_measured()),
        ] {
            lines.push(heading.into());
            lines.extend(
                sentences
                    .iter()
                    .map(|sentence| format!("- {}", sentence.replace('`', ""))),
            );
        }
        lines.join("\n")
    }

    fn sizes(&self) -> String {
        let sizes: Vec<String> = batches(&self.rows).iter().map(usize::to_string).collect();
        sizes.join(", ")
    }
}
