//! Native and served passes in turn, so that a machine that slows down or speeds up does so for both.

use galley_core::AnyRecipe;

use crate::{
    corpus::Corpus,
    error::Result,
    native::Pass,
    progress::Progress,
    report::record::{Record, Run},
    served::{LoadGenerator, Payloads, Setting},
};

/// All cells of a table.
pub(crate) struct Matrix<'a> {
    pub(crate) recipe: &'a AnyRecipe,
    pub(crate) corpus: &'a Corpus,
    pub(crate) load: &'a LoadGenerator,
    pub(crate) payloads: &'a Payloads,
    pub(crate) batches: &'a [usize],
    pub(crate) concurrencies: &'a [usize],
    /// Seconds for an example at each batch size, roughly.
    pub(crate) native_costs: &'a [f64],
    /// The same through the server.
    pub(crate) served_costs: &'a [f64],
    pub(crate) run: &'a Run,
}

impl Matrix<'_> {
    /// Runs all cells, `repeats` times over; `each` is given every figure as it comes.
    pub(crate) fn run(
        &self,
        quiet: bool,
        each: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<()> {
        let progress = Progress::new(self.work(), quiet);
        let result = (0..self.run.repeats).try_for_each(|repeat| {
            (0..self.batches.len()).try_for_each(|row| self.row(row, repeat, &progress, each))
        });
        progress.clear();
        result
    }

    /// One batch size: in process, then at every concurrency.
    fn row(
        &self,
        row: usize,
        repeat: usize,
        progress: &Progress,
        each: &mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<()> {
        let batch = self.batches[row];
        let examples = self.run.examples as f64;
        let (native, served) = (self.native_costs[row], self.served_costs[row]);
        progress.label(format!("native, batch {batch}"));
        let pass = Pass {
            recipe: self.recipe,
            corpus: self.corpus,
            batch,
            repeat,
            examples: self.run.examples,
            distinct: self.run.examples,
        };
        pass.warm_up()?;
        let figures = pass.run(&|done| progress.within(done as f64 * native))?;
        each(Record::Native(figures))?;
        progress.finish_cell(examples * native);
        for &concurrency in self.concurrencies {
            progress.label(format!("served, batch {batch} x {concurrency}"));
            let setting = Setting {
                batch,
                concurrency,
                rate: None,
                repeat,
            };
            let done = |done| progress.within(done as f64 * served);
            each(Record::Served(self.load.pass(
                setting,
                self.payloads,
                &done,
            )?))?;
            progress.finish_cell(examples * served);
        }
        Ok(())
    }

    /// Seconds that everything will take, roughly.
    fn work(&self) -> f64 {
        let native: f64 = self.native_costs.iter().sum();
        let served: f64 = self.served_costs.iter().sum();
        let row = native + served * self.concurrencies.len() as f64;
        row * (self.run.examples * self.run.repeats) as f64
    }
}
