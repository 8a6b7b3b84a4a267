//! What steps say, beside the metrics.

use super::{
    metrics::{nearest, rate},
    peak,
};
use crate::{report::record::Steps, stats::Spread};

/// Steps of which the 99th percentile is none of the slowest few.
const TELLING: usize = 100;

/// What steps say.
pub(super) struct Figures {
    pub(super) step_ms: f64,
    /// Parts of the mean.
    pub(super) half_interval: Option<f64>,
    pub(super) deviation: f64,
    pub(super) p50: f64,
    pub(super) p99: Option<f64>,
    /// Samples a second.
    pub(super) throughput: f64,
    pub(super) tflops: f64,
    pub(super) of_peak: Option<f64>,
    /// Milliseconds of a step in which the device does not compute.
    pub(super) beside: Option<f64>,
    /// Of a sample.
    pub(super) joules: Option<f64>,
}

impl Figures {
    pub(super) fn of(steps: &Steps) -> Self {
        let times = &steps.step_ms.0;
        let Spread {
            mean,
            deviation,
            half_interval,
        } = Spread::of(times).unwrap_or(Spread {
            mean: f64::NAN,
            deviation: f64::NAN,
            half_interval: None,
        });
        let rates = times.iter().map(|ms| rate(steps.batch, *ms));
        let tflops = 2.0 * steps.multiply_adds as f64 / mean / 1e9;
        let card = steps.device_name.as_deref();
        let devices = steps.device.split(',').count() as f64;
        let peak = card.and_then(|card| peak::tflops(card, &steps.precision));
        Self {
            step_ms: mean,
            half_interval: half_interval.map(|half| half / mean),
            deviation: deviation / mean,
            p50: nearest(times, 50.0),
            p99: (times.len() >= TELLING).then(|| nearest(times, 99.0)),
            throughput: rates.sum::<f64>() / times.len() as f64,
            tflops,
            of_peak: peak.map(|peak| tflops / (devices * peak)),
            beside: steps.resident_ms.map(|resident| mean - resident),
            joules: steps.energy.as_ref().map(|energy| {
                let all = times.len() as f64 + steps.warmup as f64;
                energy.joules / (all * steps.batch as f64)
            }),
        }
    }
}

pub(super) fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}
