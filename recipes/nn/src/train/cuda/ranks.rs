//! Devices that train a network together.

use std::{panic::resume_unwind, sync::Arc, thread};

use candle_core::{Result, bail};

use super::device::Cuda;
use crate::{
    cuda::{Gpu, recording},
    train::{Outcome, Plan, Settings, cpu::Numbers},
};

/// Devices that each have the whole network, and of each batch a part of one size. They begin with the same parameters and
/// average their gradients, so that they go on with the same.
#[derive(Debug)]
pub(in crate::train) struct Ranks {
    ranks: Vec<Cuda>,
    /// Whether steps are still to be recorded.
    is_new: bool,
    /// Whether one has failed, for which others may have waited.
    has_failed: bool,
}

impl Ranks {
    /// Lays a network's numbers out on devices; the plan is that of a part. A device by itself averages with nobody, unless it
    /// is told to: of `bucket` values at once.
    ///
    /// # Errors
    /// A device has too little memory, the batch is too large for it, it is among them twice, or there are several and no NCCL.
    pub(in crate::train) fn new(
        gpus: Vec<Gpu>,
        bucket: Option<usize>,
        plan: &Arc<Plan>,
        settings: &Settings,
        numbers: &Numbers,
    ) -> Result<Self> {
        let gpus = match bucket {
            Some(values) => Gpu::joined(gpus, values)?,
            None => gpus,
        };
        let lay = |(rank, gpu): (usize, &Gpu)| Cuda::new(gpu, plan, &settings.of(rank), numbers);
        Ok(Self {
            ranks: together(gpus.iter().enumerate(), lay)?,
            is_new: bucket.is_some(),
            has_failed: false,
        })
    }

    /// How many there are.
    pub(in crate::train) fn count(&self) -> usize {
        self.ranks.len()
    }

    /// Trains on a batch: with the mean of the losses, and the times of the slowest.
    ///
    /// # Errors
    /// A launch failed, now or in a step before.
    pub(in crate::train) fn step(&mut self, input: &[f32], labels: &[u32]) -> Result<Outcome> {
        let outcomes = self.each((input, labels), Cuda::step)?;
        if self.is_new {
            // All at once, so that no device begins the next step while another records.
            let recording = recording();
            self.each((&[], &[]), |cuda, _, _| cuda.record(&recording))?;
            self.is_new = false;
        }
        Ok(Outcome::of(&outcomes))
    }

    /// The mean of the losses, without dropout. Nothing is trained by it.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub(in crate::train) fn loss(&mut self, input: &[f32], labels: &[u32]) -> Result<f64> {
        let losses = self.each((input, labels), Cuda::loss)?;
        Ok(losses.iter().sum::<f64>() / losses.len() as f64)
    }

    /// Reads what is trained on one of them, which but for running statistics is what is trained on all, and gradients as they
    /// were averaged.
    ///
    /// # Errors
    /// A copy failed.
    ///
    /// # Panics
    /// There is no such device.
    pub(in crate::train) fn fetch(&mut self, rank: usize, numbers: &mut Numbers) -> Result<()> {
        self.ranks[rank].fetch(numbers)
    }

    /// Has all do something at once, each with its part of a batch.
    fn each<T: Send>(
        &mut self,
        (input, labels): (&[f32], &[u32]),
        act: impl Fn(&mut Cuda, &[f32], &[u32]) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        if self.has_failed {
            bail!("expected devices that are all well, but one has failed in a step before")
        }
        let parts = self.ranks.len();
        let [inputs, examples] = [input.len(), labels.len()].map(|len| len / parts);
        let ranks = self.ranks.iter_mut().enumerate();
        let done = together(ranks, |(rank, cuda)| {
            let input = &input[rank * inputs..][..inputs];
            let labels = &labels[rank * examples..][..examples];
            let done = act(cuda, input, labels);
            if done.is_err() {
                cuda.give_up();
            }
            done
        });
        self.has_failed = done.is_err();
        done
    }
}

/// Does something with each, one a thread, the first on this one.
fn together<I: Send, T: Send>(
    mut each: impl Iterator<Item = I>,
    act: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let first = each.next();
    thread::scope(|scope| {
        let act = &act;
        let others: Vec<_> = each.map(|one| scope.spawn(move || act(one))).collect();
        let first = first.map(act);
        let others = others.into_iter().map(|other| match other.join() {
            Ok(done) => done,
            Err(panic) => resume_unwind(panic),
        });
        first.into_iter().chain(others).collect()
    })
}
