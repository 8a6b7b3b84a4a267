//! How often, and after what pause, a request is tried again.

use std::{thread, time::Duration};

use indicatif::ProgressBar;

use super::PullError;

/// However often it failed, the next try is not further away than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tries in a row, and the pause between them: `backoff`, then twice that, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many tries there are in all.
    pub attempts: u32,
    /// The pause after the first failure.
    pub backoff: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

impl Retry {
    /// Runs it until it succeeds, fails for good, or has used up its tries.
    pub(super) fn run<T>(
        &self,
        progress: &ProgressBar,
        mut attempt: impl FnMut() -> Result<T, PullError>,
    ) -> Result<T, PullError> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    failed += 1;
                    self.pause(failed, error, progress)?;
                }
            }
        }
    }

    /// Waits before the next try, or gives the error back if there is to be none.
    pub(super) fn pause(
        &self,
        failed: u32,
        error: PullError,
        progress: &ProgressBar,
    ) -> Result<(), PullError> {
        match self.delay(failed) {
            Some(delay) if error.is_transient() => {
                progress.suspend(|| tracing::warn!(%error, ?delay, "trying again"));
                thread::sleep(delay);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// The pause after so many failures in a row; `None` when it is time to give up.
    fn delay(&self, failed: u32) -> Option<Duration> {
        (failed < self.attempts).then(|| {
            let doublings = failed.saturating_sub(1).min(16);
            (self.backoff * (1 << doublings)).min(LONGEST_PAUSE)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let retry = Retry {
            attempts: 4,
            backoff: Duration::from_secs(10),
        };
        let seconds: Vec<_> = (1..6)
            .map(|failed| retry.delay(failed).map(|delay| delay.as_secs()))
            .collect();
        assert_eq!(seconds, [Some(10), Some(20), Some(30), None, None]);
    }
}
