//! Fits by example, and on simulated devices.

use super::*;

mod devices;

fn bounds(largest: usize) -> Bounds {
    Bounds {
        largest,
        is_fixed: false,
        longest: Duration::MAX,
    }
}

/// Measures to the end: the fit, and how many batches it took.
fn measure(mut fit: Fit, mut time_us: impl FnMut(usize) -> Option<f64>) -> (Fit, usize) {
    let largest = fit.largest();
    let mut batches = 0;
    while let Some(size) = fit.next() {
        assert!(size <= largest);
        batches += 1;
        match time_us(size) {
            Some(us) => _ = fit.measured(size, us / 1e6),
            None => assert!(fit.out_of_memory(size)),
        }
        assert!(batches < 5000, "it does not end");
    }
    (fit, batches)
}

fn found(largest: usize, time_us: impl FnMut(usize) -> Option<f64>) -> usize {
    measure(Fit::new(bounds(largest), 1), time_us)
        .0
        .max_batch_size()
}

fn sizes(fit: &Fit) -> Vec<usize> {
    fit.sizes.keys().copied().collect()
}

/// Full at 16 items, in 10 ms.
fn full_at_16(size: usize) -> f64 {
    f64::max(1e4, size as f64 * 1e4 / 16.0)
}

#[test]
fn stops_where_throughput_stops_growing() {
    let (fit, batches) = measure(Fit::new(bounds(1024), 1), |size| Some(full_at_16(size)));
    assert_eq!(fit.max_batch_size(), 16);
    assert_eq!(
        sizes(&fit),
        [1, 2, 4, 8, 12, 16, 24, 32, 64],
        "two doublings without a gain"
    );
    assert_eq!(
        batches,
        9 * (FIRST_PASSES + AT_LEAST),
        "no more on a quiet machine"
    );
}

#[test]
fn a_device_that_gains_nothing_from_batches_runs_single_items() {
    assert_eq!(found(128, |size| Some(1e4 * size as f64)), 1);
}

#[test]
fn short_forward_passes_run_together_so_that_handing_over_costs_little() {
    assert_eq!(found(128, |size| Some(100.0 * size as f64)), 48);
}

#[test]
fn ends_at_the_largest_size_and_never_beyond_it() {
    assert_eq!(found(24, |_| Some(1000.0)), 24);
    assert_eq!(found(100, |_| Some(1000.0)), 100);
}

#[test]
fn batches_that_would_keep_callers_waiting_are_not_tried() {
    // Twice as many items for a tenth more time, from 50 ms on.
    let time = |size: usize| 5e4 * 1.1f64.powf((size as f64).log2());
    let (fit, _) = measure(Fit::new(bounds(1 << 20), 1), |size| Some(time(size)));
    let top = *fit.sizes.keys().last().unwrap();
    assert!(time(top / 2) <= 2.5e5 && time(top) > 2.5e5, "{top}");
}

#[test]
fn an_objective_bounds_a_batchs_time_whatever_that_costs() {
    let fit = |longest| {
        let bounds = Bounds {
            longest: Duration::from_secs_f64(longest),
            ..bounds(1024)
        };
        measure(Fit::new(bounds, 1), |size| Some(1e4 + 100.0 * size as f64)).0
    };
    assert_eq!(fit(0.02).max_batch_size(), 96);
    assert_eq!(fit(0.001).max_batch_size(), 1, "none is short enough");
    // A neighbour doubles all times: batches get smaller.
    let mut fit = fit(0.02);
    for _ in 0..20 {
        let size = fit.max_batch_size();
        fit.add(size, size as u64, 0.02 + 2e-4 * size as f64);
    }
    assert!(
        (1..=3).contains(&fit.max_batch_size()),
        "{}",
        fit.max_batch_size()
    );
}

#[test]
fn memory_that_runs_out_ends_the_search_at_what_fitted() {
    let fits = |size| (size <= 8).then_some(1000.0);
    assert_eq!(found(128, fits), 8);
}

#[test]
fn memory_that_runs_out_while_serving_makes_batches_smaller_unless_it_was_a_try() {
    let (mut fit, _) = measure(Fit::new(bounds(1024), 1), |size| Some(full_at_16(size)));
    assert!(!fit.cap(12), "half of 24, or of 23");
    assert_eq!((fit.max_batch_size(), fit.memory), (16, 16));
    assert!(fit.cap(8) && !fit.cap(8));
    assert_eq!((fit.max_batch_size(), fit.memory), (8, 8));
}

#[test]
fn a_size_that_was_asked_for_is_kept_unless_memory_is_short() {
    let asked = || {
        let bounds = Bounds {
            is_fixed: true,
            ..bounds(40)
        };
        Fit::new(bounds, 1)
    };
    let (fit, batches) = measure(asked(), |size| Some(1e4 * size as f64));
    assert_eq!(
        (fit.max_batch_size(), batches),
        (40, 2 * (FIRST_PASSES + 1))
    );
    let (fit, _) = measure(asked(), |size| (size <= 12).then_some(1000.0));
    assert_eq!(fit.max_batch_size(), 10);
}

#[test]
fn what_was_not_measured_is_not_settled_on() {
    let mut fit = Fit::new(bounds(64), 1);
    for _ in 0..=FIRST_PASSES {
        assert_eq!(
            (fit.limits(), fit.speed(), fit.next()),
            (None, None, Some(1))
        );
        let counts = fit.measured(1, 1e-3);
        assert_eq!(counts, fit.limits().is_some());
    }
    assert_eq!(fit.limits().map(|limits| limits.max_batch_size), Some(1));
}

#[test]
fn first_passes_and_one_bad_measurement_drop_no_size() {
    let mut passes = BTreeMap::new();
    let found = found(1024, |size| {
        let pass = passes.entry(size).or_insert(0);
        *pass += 1;
        let slow = *pass <= FIRST_PASSES || size == 8 && *pass == FIRST_PASSES + 1;
        Some(full_at_16(size) * if slow { 20.0 } else { 1.0 })
    });
    assert_eq!(found, 16);
}

#[test]
fn predictions_follow_what_batches_take_and_one_outlier_is_no_trend() {
    let (mut fit, _) = measure(Fit::new(bounds(64), 1), |size| Some(full_at_16(size)));
    let predicted = |fit: &Fit| fit.limits().unwrap().curve.predict(16, 16).as_secs_f64();
    fit.add(16, 16, 5.0);
    assert!((predicted(&fit) - 0.01).abs() < 1e-6);
    for _ in 0..MOOD {
        fit.add(16, 16, 0.03);
    }
    assert!((predicted(&fit) - 0.03).abs() < 1e-6, "{}", predicted(&fit));
    assert_eq!(fit.max_batch_size(), 16);
}

/// Texts of a quarter of the usual length, whose time goes with their tokens, and then with their number.
#[test]
fn limits_follow_what_items_cost_and_how_far_that_matters() {
    let texts = |time: fn(f64, f64) -> f64| {
        let typical = 100;
        let mut fit = Fit::new(bounds(1024), typical);
        while let Some(size) = fit.next() {
            fit.measured(size, time(size as f64, size as f64));
        }
        let mut cost_of = 0;
        for _ in 0..3000 {
            let items = fit.limits().unwrap().max_batch_size;
            // Not all alike.
            cost_of = (cost_of + 7) % 31;
            let cost = items as u64 * (10 + cost_of);
            let seconds = time(items as f64, cost as f64 / 100.0);
            fit.add(items, cost, seconds);
            fit.try_another(items, cost, seconds);
        }
        fit
    };
    let by_cost = texts(|_, cost| 0.01 * f64::max(cost / 16.0, 1.0));
    assert!(
        (48..=100).contains(&by_cost.max_batch_size()),
        "{}",
        by_cost.max_batch_size()
    );
    let by_items = texts(|items, _| 0.01 * f64::max(items / 16.0, 1.0));
    assert!(
        (12..=24).contains(&by_items.max_batch_size()),
        "{}",
        by_items.max_batch_size()
    );
}

#[test]
fn a_request_alone_takes_a_line_through_one_item_and_a_full_batch() {
    let (fit, _) = measure(Fit::new(bounds(64), 1), |size| {
        Some(2000.0 + 500.0 * size as f64)
    });
    let speed = fit.speed().unwrap();
    let close = |a: f64, b: f64| (a - b).abs() < 1e-3 * b;
    assert!(
        close(speed.fixed, 0.002) && close(speed.per_cost, 5e-4),
        "{speed:?}"
    );
}
