//! Figures by SuperBench's names, of which its result tools take means, baselines and rules.

use std::collections::BTreeMap;

use crate::report::record::{Ended, Steps};

/// Percentiles of step times and throughputs, as they stand in names.
const PERCENTILES: [(&str, f64); 5] = [
    ("50", 50.0),
    ("90", 90.0),
    ("95", 95.0),
    ("99", 99.0),
    ("99.9", 99.9),
];

/// All metrics, by their full names: `model-benchmarks:resnet/galley-resnet50/fp32_inference_step_time_99.9`.
pub(super) fn metrics(all: &[&Steps], ended: &[&Ended]) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    for ended in ended {
        let name = format!("{}/return_code", ended.benchmark);
        metrics.insert(name, f64::from(ended.return_code));
    }
    for steps in all.iter().filter(|steps| !steps.step_ms.0.is_empty()) {
        // The run's number stands in names only where there are several.
        let prefix = match all.iter().filter(|other| other.same_as(steps)).count() {
            1 => steps.benchmark.clone(),
            _ => format!("{}/{}", steps.benchmark, steps.run),
        };
        let kind = format!("{}_{}", short(&steps.precision), steps.action);
        let times = &steps.step_ms.0;
        let throughputs: Vec<f64> = times.iter().map(|ms| rate(steps.batch, *ms)).collect();
        for (what, values) in [("step_time", times), ("throughput", &throughputs)] {
            let name = format!("{prefix}/{kind}_{what}");
            for (percentile, percent) in PERCENTILES {
                metrics.insert(format!("{name}_{percentile}"), nearest(values, percent));
            }
            metrics.insert(name, values.iter().sum::<f64>() / values.len() as f64);
        }
    }
    metrics
}

/// Samples a second of a step. SuperBench's throughput is the mean of these, not all samples over all time.
pub(super) fn rate(batch: usize, step_ms: f64) -> f64 {
    1000.0 / step_ms * batch as f64
}

/// The value that numpy's percentile of the method `nearest` picks: of the places beside a percentile's the nearer one, and of two as near
/// the even one.
pub(super) fn nearest(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * (percent / 100.0)).round_ties_even();
    sorted.get(place as usize).copied().unwrap_or(f64::NAN)
}

/// A precision as metrics have it.
fn short(precision: &str) -> &str {
    match precision {
        "float32" => "fp32",
        "float16" => "fp16",
        "bfloat16" => "bf16",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::Packed;

    fn steps(precision: &str, run: usize, times: &[f64]) -> Steps {
        Steps {
            benchmark: "model-benchmarks:resnet/galley-resnet50".into(),
            action: "inference".into(),
            precision: precision.into(),
            run,
            batch: 4,
            step_ms: Packed(times.to_vec()),
            ..Steps::default()
        }
    }

    #[test]
    fn percentiles_are_numpys_nearest() {
        let to = |n: usize| (0..n).map(|i| i as f64).collect::<Vec<_>>();
        // numpy.percentile(range(n), q, method="nearest").
        for (n, percent, expected) in [
            (1, 99.9, 0.0),
            (2, 50.0, 0.0),
            (3, 50.0, 1.0),
            (4, 50.0, 2.0),
            (6, 50.0, 2.0),
            (6, 90.0, 4.0),
            (11, 95.0, 10.0),
            (16, 90.0, 14.0),
            (31, 95.0, 28.0),
            (51, 99.0, 50.0),
            (2048, 99.9, 2045.0),
            (2048, 50.0, 1024.0),
        ] {
            assert_eq!(nearest(&to(n), percent), expected, "{percent} of {n}");
        }
        assert_eq!(nearest(&[3.0, 1.0, 2.0], 50.0), 2.0);
    }

    #[test]
    fn metrics_have_superbenchs_names() {
        let steps = steps("float16", 0, &[1.0, 2.0, 4.0]);
        let ended = Ended {
            benchmark: steps.benchmark.clone(),
            ..Ended::default()
        };
        let metrics = metrics(&[&steps], &[&ended]);
        let names: Vec<&str> = metrics.keys().map(String::as_str).collect();
        let of = |what: &str| format!("model-benchmarks:resnet/galley-resnet50/{what}");
        assert_eq!(
            names,
            [
                "fp16_inference_step_time",
                "fp16_inference_step_time_50",
                "fp16_inference_step_time_90",
                "fp16_inference_step_time_95",
                "fp16_inference_step_time_99",
                "fp16_inference_step_time_99.9",
                "fp16_inference_throughput",
                "fp16_inference_throughput_50",
                "fp16_inference_throughput_90",
                "fp16_inference_throughput_95",
                "fp16_inference_throughput_99",
                "fp16_inference_throughput_99.9",
                "return_code",
            ]
            .map(of)
        );
        let value = |what: &str| metrics[&of(&format!("fp16_inference_{what}"))];
        assert_eq!(
            (value("step_time_50"), value("throughput_50")),
            (2.0, 2000.0)
        );
        assert_eq!(value("throughput_99.9"), 4000.0);
        assert!((value("step_time") - 7.0 / 3.0).abs() < 1e-12);
        assert!((value("throughput") - 7000.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn runs_are_numbered_where_there_are_several() {
        let [first, second] = [0, 1].map(|run| steps("float32", run, &[1.0]));
        let other = steps("float16", 0, &[1.0]);
        let metrics = metrics(&[&first, &second, &other], &[]);
        let benchmark = "model-benchmarks:resnet/galley-resnet50";
        for name in [
            "0/fp32_inference_step_time",
            "1/fp32_inference_throughput_99.9",
            "fp16_inference_step_time",
        ] {
            assert!(
                metrics.contains_key(&format!("{benchmark}/{name}")),
                "{name}"
            );
        }
        assert_eq!(metrics.len(), 36);
    }
}
