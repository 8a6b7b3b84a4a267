//! What a device holds and consumes while passes run: memory, energy, clocks.
//!
//! A CUDA device is asked through NVML, which comes with its driver and is looked for at run time; a processor by the counters of
//! its packages (RAPL), where the system lets them be read. What does not answer is absent from the records.

#[cfg(feature = "nvml")]
mod nvml;
mod rapl;

use std::{
    path::Path,
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use candle_core::Device;

use self::rapl::Rapl;
use crate::report::record::Energy;

/// How often memory, clocks and their limits are looked at during a pass.
const EVERY: Duration = Duration::from_millis(50);
/// Where Linux has the processor's counters.
const POWERCAP: &str = "/sys/class/powercap";

/// What there is to read of a device.
pub(crate) enum Meter {
    /// Nothing answers.
    None,
    /// The processor's counters.
    Rapl(Rapl),
    /// An NVIDIA card.
    #[cfg(feature = "nvml")]
    Nvml(Box<nvml::Card>),
}

/// What a device is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) name: Option<String>,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) driver: Option<String>,
}

/// What a pass held and consumed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Readings {
    pub(crate) energy: Option<Energy>,
    pub(crate) device_peak_bytes: Option<u64>,
}

/// What is looked at again and again.
#[derive(Debug, Default)]
struct Samples {
    clocks_mhz: Vec<f64>,
    peak_bytes: Option<u64>,
    throttled: Vec<String>,
}

impl Meter {
    /// What there is to read of this device.
    pub(crate) fn of(device: &Device) -> Self {
        if device.is_cpu() {
            return Rapl::open(Path::new(POWERCAP)).map_or(Self::None, Self::Rapl);
        }
        #[cfg(feature = "nvml")]
        match nvml::Card::of(device) {
            Ok(card) => return Self::Nvml(Box::new(card)),
            Err(error) => tracing::warn!(
                error,
                "neither the device's memory nor its energy is measured"
            ),
        }
        Self::None
    }

    /// What the device is; of a CPU, the machine's description says it.
    pub(crate) fn facts(&self) -> Facts {
        match self {
            #[cfg(feature = "nvml")]
            Self::Nvml(card) => card.facts(),
            _ => Facts::default(),
        }
    }

    /// Does the work, and says what was read meanwhile.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Readings) {
        let (stop, stopped) = channel::<()>();
        std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let mut samples = Samples::default();
                loop {
                    self.sample(&mut samples);
                    if stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                        return samples;
                    }
                }
            });
            let (before, started) = (self.joules(), Instant::now());
            let result = work();
            let (after, seconds) = (self.joules(), started.elapsed().as_secs_f64());
            drop(stop);
            let samples = watch.join().unwrap_or_default();
            let energy = before.zip(after).map(|(before, after)| Energy {
                joules: self.between(before, after),
                seconds,
                source: self.source().into(),
                clock_mhz: mean(&samples.clocks_mhz),
                throttled: samples.throttled,
            });
            let readings = Readings {
                energy,
                device_peak_bytes: samples.peak_bytes,
            };
            (result, readings)
        })
    }

    fn source(&self) -> &'static str {
        match self {
            Self::None => "",
            Self::Rapl(_) => "rapl",
            #[cfg(feature = "nvml")]
            Self::Nvml(_) => "nvml",
        }
    }

    /// The energy counter.
    fn joules(&self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Rapl(rapl) => rapl.joules(),
            #[cfg(feature = "nvml")]
            Self::Nvml(card) => card.joules(),
        }
    }

    /// What was consumed between two readings of the counter.
    fn between(&self, before: f64, after: f64) -> f64 {
        match self {
            Self::Rapl(rapl) => rapl.between(before, after),
            _ => after - before,
        }
    }

    #[cfg_attr(
        not(feature = "nvml"),
        allow(unused_variables, reason = "only a card has anything to look at")
    )]
    fn sample(&self, samples: &mut Samples) {
        match self {
            Self::None | Self::Rapl(_) => (),
            #[cfg(feature = "nvml")]
            Self::Nvml(card) => card.sample(samples),
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_whatever_there_is_to_read() {
        let mut done = 0;
        let (result, readings) = Meter::None.during(|| {
            done += 1;
            "result"
        });
        assert_eq!((result, done), ("result", 1));
        assert_eq!(readings, Readings::default());
        assert_eq!(Meter::None.facts(), Facts::default());
    }

    #[test]
    fn the_processors_counters_are_read_around_the_work() {
        let dir = tempfile::tempdir().unwrap();
        rapl::tests::package(dir.path(), 0, 1_000_000, 9_000_000);
        let meter = Rapl::open(dir.path()).map(Meter::Rapl).unwrap();
        let ((), readings) =
            meter.during(|| rapl::tests::package(dir.path(), 0, 3_500_000, 9_000_000));
        let energy = readings.energy.unwrap();
        assert_eq!((energy.joules, energy.source.as_str()), (2.5, "rapl"));
        assert!(energy.seconds > 0.0 && energy.clock_mhz.is_none());
    }
}
