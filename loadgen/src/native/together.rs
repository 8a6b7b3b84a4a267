//! A pass with several batches in flight, as a server has them.

use std::{
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::Instant,
};

use super::Pass;
use crate::{error::Result, interrupt, report::record::Native};

impl Pass<'_> {
    /// Runs the pass by so many threads, each of which takes the next batch through all stages; `done` is told after each batch how many
    /// examples have been. The time is the pass's from begin to end, so that all examples are read before.
    pub(crate) fn run_together(&self, in_flight: usize, done: &dyn Fn(usize)) -> Result<Native> {
        let mut batches = Vec::with_capacity(self.examples.div_ceil(self.batch));
        for batch in self.batches() {
            interrupt::check()?;
            let examples = batch.map(|i| i % self.distinct);
            let inputs = examples.clone().map(|index| self.corpus.input(index));
            batches.push((inputs.collect::<Result<Vec<_>>>()?, examples));
        }
        let count = batches.len();
        self.start();
        let left = Mutex::new(batches.into_iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (ended, results) = mpsc::channel();
        let started = Instant::now();
        thread::scope(|scope| {
            for _ in 0..in_flight {
                let ended = ended.clone();
                let next = &next;
                scope.spawn(move || {
                    while let Some((inputs, examples)) = next() {
                        let length = examples.len();
                        let time = self.answered(inputs, examples);
                        if ended.send(time.map(|time| (time, length))).is_err() {
                            // Nobody waits for more.
                            break;
                        }
                    }
                });
            }
            drop(ended);
            let mut times = Vec::with_capacity(count);
            let mut seen = 0;
            for result in results {
                interrupt::check()?;
                let (time, length) = result?;
                times.push(time);
                seen += length;
                done(seen);
            }
            Ok(self.figures(&times, started.elapsed(), in_flight))
        })
    }
}
