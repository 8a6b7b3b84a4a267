//! How many bytes of inputs are in memory.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted as one.
const UNIT: u64 = 1024;

/// A bound on the bytes of inputs in memory.
#[derive(Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
    /// Whether somebody had to wait since it was last asked.
    was_short: AtomicBool,
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub struct Held(Option<OwnedSemaphorePermit>);

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes.div_ceil(UNIT))
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
            was_short: AtomicBool::new(false),
        }
    }

    /// Waits until so many bytes are free, and takes them.
    pub(super) async fn take(&self, bytes: u64) -> Held {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let units = units.min(self.units);
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(units) {
            return Held(Some(permit));
        }
        self.was_short.store(true, Ordering::Relaxed);
        // It is never closed.
        Held(Arc::clone(&self.free).acquire_many_owned(units).await.ok())
    }

    /// How many bytes are taken.
    pub fn taken(&self) -> u64 {
        u64::from(self.units).saturating_sub(self.free.available_permits() as u64) * UNIT
    }

    /// Whether it was short since the last call.
    pub fn was_short(&self) -> bool {
        self.was_short.swap(false, Ordering::Relaxed)
    }
}

impl Held {
    /// Nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// It turned out to be only so many bytes.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let Some(permit) = &mut self.0 else { return };
        let needed = usize::try_from(bytes.div_ceil(UNIT)).unwrap_or(usize::MAX);
        drop(permit.split(permit.num_permits().saturating_sub(needed)));
    }
}
