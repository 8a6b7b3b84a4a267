//! What was learnt of a recipe: each device's fit, and how long preparing an item takes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fit::{Bounds, Fit, Measured};
use crate::batching::{Limits, Speed};

/// How much a new measurement of preparing counts.
const NEW: f64 = 0.1;

/// All that is known of one recipe.
pub(super) struct Learnt {
    state: Mutex<State>,
    /// Threads that prepare.
    threads: usize,
    /// Batches that each device has in hand.
    batches_in_flight: usize,
}

struct State {
    /// A card's own: others of its name may have another neighbour.
    devices: Vec<Fit>,
    prepare: f64,
}

impl Learnt {
    /// `typical` is what an item costs that warm-up measures with.
    pub(super) fn new(
        (devices, batches_in_flight): (usize, usize),
        threads: usize,
        bounds: Bounds,
        typical: u64,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                devices: vec![Fit::new(bounds, typical); devices],
                prepare: 0.0,
            }),
            threads,
            batches_in_flight,
        }
    }

    /// The bounds of a batch on that device; none while it has not warmed up.
    pub(super) fn limits(&self, device: usize) -> Option<Limits> {
        let limits = self.lock().devices[device].limits();
        limits.map(|limits| Limits {
            in_flight: self.batches_in_flight as u32,
            ..limits
        })
    }

    /// The size that the device is to measure next.
    pub(super) fn next(&self, device: usize) -> Option<usize> {
        self.lock().devices[device].next()
    }

    /// A device has run a batch of typical items to be measured, in so many seconds. Says whether that counts.
    pub(super) fn measured(&self, device: usize, items: usize, seconds: f64) -> bool {
        self.lock().devices[device].measured(items, seconds)
    }

    /// A batch that was served took a device so many seconds. Says what was expected.
    pub(super) fn ran(&self, device: usize, items: usize, cost: u64, seconds: f64) -> f64 {
        let fit = &mut self.lock().devices[device];
        let expected = fit.add(items, cost, seconds);
        fit.try_another(items, cost, seconds);
        expected
    }

    /// Memory ran out while measuring. Says whether smaller batches are left.
    pub(super) fn out_of_memory(&self, device: usize, items: usize) -> bool {
        self.lock().devices[device].out_of_memory(items)
    }

    /// A device had memory for half a batch only, of so many items. Says whether its batches become smaller.
    pub(super) fn cap(&self, device: usize, items: usize) -> bool {
        self.lock().devices[device].cap(items)
    }

    /// All sizes that a device has measured.
    pub(super) fn sizes(&self, device: usize) -> Vec<Measured> {
        self.lock().devices[device].sizes()
    }

    /// The most items of a batch on any device.
    pub(super) fn max_batch_size(&self) -> usize {
        let state = self.lock();
        state
            .devices
            .iter()
            .map(Fit::max_batch_size)
            .max()
            .unwrap_or(1)
    }

    /// What all devices together take for a request.
    pub(super) fn speed(&self) -> Option<Speed> {
        let state = self.lock();
        Speed::together(state.devices.iter().filter_map(Fit::speed))
    }

    /// What an item usually costs.
    pub(super) fn usual_cost(&self) -> f64 {
        let state = self.lock();
        state.devices.iter().map(Fit::usual_cost).sum::<f64>() / state.devices.len() as f64
    }

    /// An item was prepared in so many seconds.
    pub(super) fn prepared(&self, seconds: f64) {
        let prepare = &mut self.lock().prepare;
        *prepare = match *prepare > 0.0 {
            // One outlier is no trend.
            true => *prepare + NEW * (seconds.min(10.0 * *prepare) - *prepare),
            false => seconds,
        };
    }

    /// How long an item is prepared, in seconds.
    pub(super) fn prepare_seconds(&self) -> f64 {
        self.lock().prepare
    }

    /// What an item takes where many are there, in seconds: on the devices and the threads that prepare, as if one waited
    /// for the other. On a CPU, which does both, it is so.
    pub(super) fn seconds_per_item(&self) -> f64 {
        let state = self.lock();
        let seconds = state.devices.iter().map(Fit::seconds_per_item);
        let rate: f64 = seconds
            .filter(|&seconds| seconds > 0.0)
            .map(f64::recip)
            .sum();
        let forward = if rate > 0.0 { 1.0 / rate } else { 0.0 };
        forward + state.prepare / self.threads as f64
    }

    /// As many items as all devices and threads could have in hand at once.
    pub(super) fn in_hand(&self) -> usize {
        let state = self.lock();
        let devices: usize = state.devices.iter().map(Fit::max_batch_size).sum();
        devices * self.batches_in_flight + self.threads
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that may panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn learnt(devices: usize, threads: usize) -> Learnt {
        let bounds = Bounds {
            largest: 64,
            is_fixed: false,
            longest: Duration::MAX,
        };
        Learnt::new((devices, 2), threads, bounds, 2)
    }

    /// A device that is full with so many items of cost 2, and then takes 1 ms for each.
    fn warm_up(learnt: &Learnt, device: usize, full: usize) {
        while let Some(items) = learnt.next(device) {
            learnt.measured(device, items, 0.001 * items.max(full) as f64);
        }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn devices_and_preparing_add_up() {
        let learnt = learnt(2, 4);
        assert_eq!((learnt.limits(0), learnt.max_batch_size()), (None, 1));
        assert_eq!((learnt.speed(), learnt.seconds_per_item()), (None, 0.0));
        warm_up(&learnt, 0, 8);
        warm_up(&learnt, 1, 16);
        let limits = learnt.limits(1).unwrap();
        assert_eq!(
            (
                limits.max_batch_size,
                limits.max_batch_cost,
                limits.in_flight
            ),
            (16, 64, 2)
        );
        assert_eq!(learnt.max_batch_size(), 16);
        assert_eq!(learnt.in_hand(), 2 * 24 + 4);
        assert!(close(learnt.seconds_per_item(), 0.0005));
        learnt.prepared(0.04);
        learnt.prepared(0.08);
        assert!(close(learnt.prepare_seconds(), 0.044));
        assert!(close(learnt.seconds_per_item(), 0.0005 + 0.044 / 4.0));
    }

    #[test]
    fn a_pause_of_the_machine_is_not_taken_for_what_preparing_takes() {
        let learnt = learnt(1, 1);
        learnt.prepared(0.01);
        learnt.prepared(5.0);
        assert!(close(learnt.prepare_seconds(), 0.019));
    }

    #[test]
    fn what_a_card_has_learnt_is_its_own_and_its_memory_stays() {
        let learnt = learnt(2, 1);
        warm_up(&learnt, 0, 32);
        assert!(learnt.cap(0, 8) && !learnt.cap(0, 16));
        warm_up(&learnt, 1, 32);
        for _ in 0..1000 {
            learnt.ran(0, 8, 16, 0.032);
        }
        let size = |device: usize| learnt.lock().devices[device].max_batch_size();
        assert_eq!([0, 1].map(size), [8, 32]);
    }
}
