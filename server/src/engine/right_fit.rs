//! The right batch size, found by measuring: where throughput stops growing, a larger batch only adds latency.

use std::time::Duration;

use galley_core::ForwardError;

/// A batch size counts as better only if it raises throughput by this much.
const WORTHWHILE_GAIN: f64 = 1.02;
/// After this many doublings without such a gain, the search ends.
const PATIENCE: usize = 2;
/// What a batch costs beside its forward pass: forming it, handing it over, waking its callers.
const HAND_OVER: Duration = Duration::from_micros(50);

/// One measured batch size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The size.
    pub batch_size: usize,
    /// Items a second, handing over included.
    pub throughput: f64,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The smallest batch size that no other beats by a worthwhile gain.
    pub batch_size: usize,
    /// Everything measured, in order.
    pub measured: Vec<Measured>,
}

/// Doubles the batch size from 1 to `largest` while that pays. `measure` gives the time of one batch; when it reports
/// that memory ran out, the search ends at the sizes that fitted. `spent` says when enough time has gone into it.
///
/// # Errors
/// Any error of `measure` but out-of-memory, and that too if not even a single item fits.
pub fn right_fit(
    largest: usize,
    mut measure: impl FnMut(usize) -> Result<Duration, ForwardError>,
    spent: impl Fn() -> bool,
) -> Result<Fit, ForwardError> {
    let mut measured: Vec<Measured> = Vec::new();
    let mut best = Measured {
        batch_size: 1,
        throughput: 0.0,
    };
    let mut without_gain = 0;
    let mut batch_size = 1;
    while batch_size <= largest.max(1) {
        let time = match measure(batch_size) {
            Ok(time) => time,
            Err(ForwardError::OutOfMemory) if !measured.is_empty() => break,
            Err(error) => return Err(error),
        };
        let throughput = batch_size as f64 / (time + HAND_OVER).as_secs_f64();
        let now = Measured {
            batch_size,
            throughput,
        };
        measured.push(now);
        if throughput > best.throughput * WORTHWHILE_GAIN {
            best = now;
            without_gain = 0;
        } else {
            without_gain += 1;
        }
        if without_gain >= PATIENCE || spent() || batch_size == largest {
            break;
        }
        batch_size = (batch_size * 2).min(largest);
    }
    Ok(Fit {
        batch_size: best.batch_size,
        measured,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(largest: usize, time_us: impl Fn(usize) -> Option<u64>) -> Fit {
        let measure = |size| {
            time_us(size)
                .map(Duration::from_micros)
                .ok_or(ForwardError::OutOfMemory)
        };
        right_fit(largest, measure, || false).unwrap()
    }

    #[test]
    fn stops_where_throughput_stops_growing() {
        // A fixed cost of 10 ms until the device is full at 16 items.
        let fit = fit(1024, |size| Some(10_000.max(size as u64 * 10_000 / 16)));
        assert_eq!(fit.batch_size, 16);
        assert_eq!(
            fit.measured.last().unwrap().batch_size,
            64,
            "two doublings without a gain"
        );
    }

    #[test]
    fn a_device_that_gains_nothing_from_batches_runs_single_items() {
        assert_eq!(fit(128, |size| Some(10_000 * size as u64)).batch_size, 1);
    }

    #[test]
    fn short_forward_passes_run_together_so_that_handing_over_costs_little() {
        assert_eq!(fit(128, |size| Some(100 * size as u64)).batch_size, 64);
    }

    #[test]
    fn ends_at_the_largest_size_and_never_beyond_it() {
        let fit = fit(24, |_| Some(1000));
        assert_eq!(fit.batch_size, 24);
        assert_eq!(
            fit.measured
                .iter()
                .map(|m| m.batch_size)
                .collect::<Vec<_>>(),
            [1, 2, 4, 8, 16, 24]
        );
    }

    #[test]
    fn memory_that_runs_out_ends_the_search_at_what_fitted() {
        assert_eq!(fit(128, |size| (size <= 8).then_some(1000)).batch_size, 8);
    }

    #[test]
    fn a_single_item_that_does_not_fit_is_an_error() {
        assert!(matches!(
            right_fit(8, |_| Err(ForwardError::OutOfMemory), || false),
            Err(ForwardError::OutOfMemory)
        ));
    }
}
