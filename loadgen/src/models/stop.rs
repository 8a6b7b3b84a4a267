//! When steps end, as SuperBench has it.

use std::time::Duration;

use crate::{
    args::ModelsArgs,
    error::{Error, Result},
};

/// When steps end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stop {
    /// Steps that do not count.
    pub(super) warmup: usize,
    /// Steps that count; 0 for any number.
    steps: usize,
    /// The time since loading began; zero for any.
    duration: Duration,
    /// Where there is a duration, steps from one look to the next.
    every: usize,
}

impl Stop {
    /// # Errors
    /// It would never come.
    pub(super) fn of(args: &ModelsArgs) -> Result<Self> {
        let duration = Duration::try_from_secs_f64(args.duration).map_err(|_| {
            let got = args.duration;
            Error::option(
                "--duration",
                format!("expected seconds, 0 or more, got {got}"),
            )
        })?;
        if args.num_steps == 0 && duration.is_zero() {
            let reason = "expected a number above 0 where there is no --duration, got 0";
            return Err(Error::option("--num-steps", reason));
        }
        Ok(Self {
            warmup: args.num_warmup,
            steps: args.num_steps,
            duration,
            every: args.check_frequency.get(),
        })
    }

    /// Whether the step of this number, from 1, was the last one. With a duration that is looked at after every so many steps only,
    /// and so is the number of steps: among many ranks each look is a message to all.
    pub(super) fn is_over(&self, step: usize, elapsed: Duration) -> bool {
        let timed = !self.duration.is_zero();
        if timed && !step.is_multiple_of(self.every) {
            return false;
        }
        (timed && elapsed >= self.duration) || (self.steps > 0 && step >= self.warmup + self.steps)
    }

    /// How much of all has been done, from 0 to about 1.
    pub(super) fn share(&self, step: usize, elapsed: Duration) -> f64 {
        let of = |done: f64, all: f64| if all > 0.0 { done / all } else { 0.0 };
        let steps = match self.steps {
            0 => 0.0,
            steps => of(step as f64, (self.warmup + steps) as f64),
        };
        steps.max(of(elapsed.as_secs_f64(), self.duration.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(steps: usize, seconds: u64) -> Stop {
        Stop {
            warmup: 64,
            steps,
            duration: Duration::from_secs(seconds),
            every: 100,
        }
    }

    /// The last step, where each takes a tenth of a second.
    fn last(stop: &Stop) -> Option<usize> {
        (1..10_000).find(|&step| stop.is_over(step, Duration::from_millis(100 * step as u64)))
    }

    #[test]
    fn warm_up_steps_come_on_top() {
        assert_eq!(last(&stop(2048, 0)), Some(2112));
        assert_eq!(last(&stop(1, 0)), Some(65));
    }

    #[test]
    fn with_a_duration_steps_end_at_multiples() {
        assert_eq!(last(&stop(0, 25)), Some(300));
        assert_eq!(last(&stop(0, 30)), Some(300));
        assert_eq!(last(&stop(2048, 25)), Some(300));
        // Whichever comes first, but for the multiple.
        assert_eq!(last(&stop(100, 1000)), Some(200));
        let each = Stop {
            every: 1,
            ..stop(100, 1000)
        };
        assert_eq!(last(&each), Some(164));
    }

    #[test]
    fn the_share_is_of_whatever_comes_first() {
        let share = |stop: Stop| stop.share(528, Duration::from_secs(20));
        assert_eq!(share(stop(2048, 0)), 0.25);
        assert_eq!(share(stop(2048, 40)), 0.5);
        assert_eq!(share(stop(0, 40)), 0.5);
    }
}
