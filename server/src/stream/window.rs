//! How many messages a worker may have in hand: pure, `now` is an argument.
//!
//! Enough that no stage waits for the source, and no more: what is in hand cannot be given to another worker, and takes
//! memory. So it follows the rate at which rows are committed, whatever bounds it, fetching or computing or the table:
//! where one of them is slow or stands still, so does the rest.

use std::time::{Duration, Instant};

/// As many batches are in hand at least: one that is computed, one that is ready, and what becomes the next two.
const BATCHES: usize = 4;
/// For how long what is in hand lasts.
const AHEAD: Duration = Duration::from_secs(2);
/// How long a measurement counts: after this time a third of its weight is left.
const MEMORY: Duration = Duration::from_secs(4);
/// How long halving may take to have an effect before it is done again.
const PAUSE: Duration = Duration::from_millis(500);

/// The most that may be in hand.
#[derive(Clone, Debug)]
pub struct Window {
    max: usize,
    /// The time in which what is in hand has to be finished.
    within: Option<Duration>,
    seconds: f64,
    finished: f64,
    last: Instant,
    /// What memory allows, if it was short.
    cap: Option<f64>,
    pressed: Option<Instant>,
}

impl Window {
    /// Never more than `max`, nor, where the source delivers again after `ack_wait`, than is finished in a third of it.
    pub fn new(max: usize, ack_wait: Option<Duration>, now: Instant) -> Self {
        Self {
            max: max.max(1),
            within: ack_wait.map(|wait| wait / 3),
            seconds: 0.0,
            finished: 0.0,
            last: now,
            cap: None,
            pressed: None,
        }
    }

    /// Messages have ended, since the last call.
    pub fn finished(&mut self, messages: usize, batch: usize, now: Instant) {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        let left = (-passed / MEMORY.as_secs_f64()).exp();
        self.seconds = self.seconds * left + passed;
        self.finished = self.finished * left + messages as f64;
        self.last = now;
        if let Some(cap) = &mut self.cap {
            // A batch more for each window that went well, until nothing is held back any more.
            *cap += (batch * messages) as f64 / cap.max(1.0);
            if *cap >= self.max as f64 {
                self.cap = None;
            }
        }
    }

    /// Nothing is in hand: this time says nothing of how fast things go.
    pub fn idle(&mut self, now: Instant) {
        self.last = now;
    }

    /// Bytes in hand have reached their bound, with so many messages.
    pub fn pressed(&mut self, in_hand: usize, now: Instant) {
        let lately = |last: Instant| now.saturating_duration_since(last) < PAUSE;
        if !self.pressed.is_some_and(lately) {
            self.pressed = Some(now);
            self.cap = Some((in_hand as f64 / 2.0).max(1.0));
        }
    }

    /// The most that may be in hand where a batch has so many.
    pub fn size(&self, batch: usize) -> usize {
        let rate = self.rate();
        let wanted = ((rate * AHEAD.as_secs_f64()) as usize).max(BATCHES * batch);
        let in_time = match self.within {
            Some(within) if rate > 0.0 => ((rate * within.as_secs_f64()) as usize).max(1),
            _ => usize::MAX,
        };
        let cap = self.cap.map_or(usize::MAX, |cap| cap as usize);
        wanted.min(in_time).min(cap).min(self.max).max(1)
    }

    /// Messages a second of late; 0 until some have ended.
    pub fn rate(&self) -> f64 {
        // One message just after the start says little.
        self.finished / self.seconds.max(0.1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// So many a second for ten seconds.
    fn at_rate(window: &mut Window, rate: usize, mut now: Instant) -> Instant {
        for _ in 0..100 {
            now += 100 * MS;
            window.finished(rate / 10, 32, now);
        }
        now
    }

    #[test]
    fn it_follows_the_rate_and_is_never_less_than_batches_need() {
        let now = Instant::now();
        let mut window = Window::new(10_000, None, now);
        assert_eq!(window.size(32), 128);
        let now = at_rate(&mut window, 1000, now);
        assert!((1900..=2100).contains(&window.size(32)), "{window:?}");
        let now = at_rate(&mut window, 100_000, now);
        assert_eq!(window.size(32), 10_000);
        let now = at_rate(&mut window, 10, now);
        let now = at_rate(&mut window, 10, now);
        at_rate(&mut window, 10, now);
        assert!((128..200).contains(&window.size(32)), "{window:?}");
    }

    #[test]
    fn what_is_in_hand_is_finished_long_before_it_is_delivered_again() {
        let now = Instant::now();
        let mut window = Window::new(10_000, Some(3000 * MS), now);
        at_rate(&mut window, 50, now);
        assert!((45..=55).contains(&window.size(32)), "{window:?}");
    }

    #[test]
    fn a_source_that_has_nothing_makes_nobody_slow() {
        let now = Instant::now();
        let mut window = Window::new(10_000, Some(3000 * MS), now);
        let now = at_rate(&mut window, 1000, now);
        let size = window.size(32);
        let now = now + 3_600_000 * MS;
        window.idle(now);
        assert_eq!(window.size(32), size);
        at_rate(&mut window, 1000, now);
        assert!(window.size(32).abs_diff(size) < 10, "{window:?}");
    }

    #[test]
    fn short_memory_halves_it_and_it_grows_again() {
        let now = Instant::now();
        let mut window = Window::new(10_000, None, now);
        let now = at_rate(&mut window, 1000, now);
        window.pressed(1000, now);
        window.pressed(1000, now + MS);
        assert_eq!(window.size(32), 500, "halved once, not twice");
        window.pressed(500, now + 600 * MS);
        assert_eq!(window.size(32), 250);
        window.finished(250, 32, now + 700 * MS);
        assert_eq!(window.size(32), 282);
        at_rate(&mut window, 1000, now);
        assert!(window.size(32) > 500, "{window:?}");
    }

    proptest! {
        #[test]
        fn it_always_lets_one_in_and_never_more_than_it_may(
            max in 1usize..100_000,
            wait in proptest::option::of(1u64..100_000),
            events in proptest::collection::vec((0usize..10_000, 0u64..10_000, any::<bool>()), 0..50),
            batch in 1usize..1024,
        ) {
            let mut now = Instant::now();
            let mut window = Window::new(max, wait.map(Duration::from_millis), now);
            for (messages, passed, pressed) in events {
                now += passed as u32 * MS;
                match pressed {
                    true => window.pressed(messages, now),
                    false => window.finished(messages, batch, now),
                }
                let size = window.size(batch);
                prop_assert!((1..=max).contains(&size), "{size}");
            }
        }
    }
}
