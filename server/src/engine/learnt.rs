//! What was learnt of a recipe: for each device its batches' bounds and speed, and how long preparing an item takes.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::batching::{Limits, Speed};

/// What a batch may cost, in units of a typical item times the batch size: room for items of twice that size.
const COST_HEADROOM: u64 = 2;
/// How much a new measurement counts.
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
    devices: Vec<Option<Known>>,
    typical: u64,
    prepare: f64,
}

/// What is known of one device.
#[derive(Clone, Copy)]
struct Known {
    batch_size: usize,
    /// The most items that its memory held.
    cap: usize,
    /// As measured when nothing else ran.
    speed: Speed,
    /// How much longer batches take while serving.
    mood: f64,
}

impl Known {
    fn batch_size(&self) -> usize {
        self.batch_size.min(self.cap)
    }

    fn speed(&self) -> Speed {
        self.speed.times(self.mood)
    }
}

impl Learnt {
    /// `typical` is what an item usually costs.
    pub(super) fn new(
        devices: usize,
        batches_in_flight: usize,
        threads: usize,
        typical: u64,
    ) -> Self {
        Self {
            state: Mutex::new(State {
                devices: vec![None; devices],
                typical,
                prepare: 0.0,
            }),
            threads,
            batches_in_flight,
        }
    }

    /// What an item usually costs.
    pub(super) fn typical(&self) -> u64 {
        self.lock().typical
    }

    /// The bounds of a batch on that device; none while it has not warmed up.
    pub(super) fn limits(&self, device: usize) -> Option<Limits> {
        let state = self.lock();
        let known = state.devices[device]?;
        let max_batch_size = known.batch_size();
        Some(Limits {
            max_batch_size,
            max_batch_cost: state.typical * max_batch_size as u64 * COST_HEADROOM,
            speed: known.speed(),
        })
    }

    /// A batch size was measured for a device. What its memory was seen to hold stays.
    pub(super) fn set(&self, device: usize, batch_size: usize, speed: Speed) {
        let known = &mut self.lock().devices[device];
        *known = Some(Known {
            batch_size,
            cap: known.map_or(usize::MAX, |known| known.cap),
            speed,
            mood: known.map_or(1.0, |known| known.mood),
        });
    }

    /// A device had memory for so many items and not for more. Says whether that is news.
    pub(super) fn cap(&self, device: usize, items: usize) -> bool {
        match &mut self.lock().devices[device] {
            Some(known) if items < known.batch_size() => {
                known.cap = items;
                true
            }
            _ => false,
        }
    }

    /// A batch that was served took `actual`.
    pub(super) fn ran(&self, device: usize, predicted: Duration, actual: Duration) {
        if let Some(known) = &mut self.lock().devices[device]
            && !predicted.is_zero()
        {
            let factor = actual.as_secs_f64() / predicted.as_secs_f64();
            // One outlier is no trend, and what was measured with nothing beside it stays in sight.
            known.mood = (known.mood * factor.clamp(0.1, 10.0).powf(NEW)).clamp(0.1, 10.0);
        }
    }

    /// The most items of a batch on any device.
    pub(super) fn max_batch_size(&self) -> usize {
        let state = self.lock();
        let sizes = state.devices.iter().flatten();
        sizes.map(Known::batch_size).max().unwrap_or(1)
    }

    /// What all devices together take for a batch.
    pub(super) fn speed(&self) -> Option<Speed> {
        let state = self.lock();
        Speed::together(state.devices.iter().flatten().map(Known::speed))
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
        let rate = |known: &Known| {
            let items = known.batch_size();
            let batch = known.speed().predict(state.typical * items as u64);
            items as f64 / batch.as_secs_f64().max(1e-9)
        };
        let rate: f64 = state.devices.iter().flatten().map(rate).sum();
        let forward = if rate > 0.0 { 1.0 / rate } else { 0.0 };
        forward + state.prepare / self.threads as f64
    }

    /// As many items as all devices and threads could have in hand at once.
    pub(super) fn in_hand(&self) -> usize {
        let state = self.lock();
        let sizes = state.devices.iter().flatten();
        let devices: usize = sizes.map(Known::batch_size).sum();
        devices * self.batches_in_flight + self.threads
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that may panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEED: Speed = Speed {
        fixed: 0.0,
        per_cost: 0.01,
    };

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn devices_and_preparing_add_up() {
        let learnt = Learnt::new(2, 2, 4, 2);
        assert_eq!((learnt.limits(0), learnt.max_batch_size()), (None, 1));
        assert_eq!((learnt.speed(), learnt.seconds_per_item()), (None, 0.0));
        learnt.set(0, 8, SPEED);
        learnt.set(1, 16, SPEED);
        let limits = learnt.limits(1).unwrap();
        assert_eq!((limits.max_batch_size, limits.max_batch_cost), (16, 64));
        assert_eq!(learnt.max_batch_size(), 16);
        assert_eq!(learnt.in_hand(), 2 * 24 + 4);
        assert!(close(learnt.seconds_per_item(), 0.01));
        learnt.prepared(0.04);
        learnt.prepared(0.08);
        assert!(close(learnt.prepare_seconds(), 0.044));
        assert!(close(learnt.seconds_per_item(), 0.01 + 0.044 / 4.0));
    }

    #[test]
    fn a_pause_of_the_machine_is_not_taken_for_what_preparing_takes() {
        let learnt = Learnt::new(1, 1, 1, 1);
        learnt.prepared(0.01);
        learnt.prepared(5.0);
        assert!(close(learnt.prepare_seconds(), 0.019));
    }

    #[test]
    fn what_a_cards_memory_holds_is_its_own_and_stays() {
        let learnt = Learnt::new(2, 1, 1, 1);
        learnt.set(0, 32, SPEED);
        learnt.set(1, 32, SPEED);
        assert!(learnt.cap(0, 8) && !learnt.cap(0, 16));
        learnt.set(0, 64, SPEED);
        learnt.set(1, 64, SPEED);
        let size = |device| learnt.limits(device).unwrap().max_batch_size;
        assert_eq!((size(0), size(1)), (8, 64));
    }

    #[test]
    fn batches_that_take_longer_while_serving_are_expected_to() {
        let learnt = Learnt::new(1, 1, 1, 1);
        learnt.set(0, 4, SPEED);
        let second = Duration::from_secs(1);
        for _ in 0..100 {
            let predicted = learnt.limits(0).unwrap().speed.predict(100);
            learnt.ran(0, predicted, 3 * second);
        }
        let predicted = learnt.limits(0).unwrap().speed.predict(100);
        assert!(
            (2.9..3.1).contains(&predicted.as_secs_f64()),
            "{predicted:?}"
        );
    }
}
