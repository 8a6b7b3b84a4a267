//! A model's benchmark: its runs, and what becomes of those that fail.

use std::time::{Duration, Instant};

use candle_core::Device;
use galley_core::{Entry, ForwardError, LoadError, LoadOptions, ModelBenchmark};
use galley_nn::bench::{allocated, resident};

use super::{distinct, stop::Stop, training};
use crate::{
    args::{Action, ModelsArgs, Precision},
    error::{Error, Result},
    interrupt,
    meter::{Facts, Meter},
    native::resident_ms,
    output::Output,
    progress::Progress,
    report::{
        peak_rss,
        record::{Ended, Packed, Record, Steps, Training},
        reset_peak_rss,
    },
    stats::milliseconds,
};

/// SuperBench's return codes.
const INVALID_ARGUMENT: u32 = 1;
const INVALID_RESULT: u32 = 3;
const FAILED: u32 = 4;
const NO_SUPPORTED_PRECISION: u32 = 10;
const MODEL_CREATION: u32 = 18;

/// Passes on a batch in the device's memory, or as many as take this long.
const RESIDENT: usize = 50;
const RESIDENT_MS: f64 = 1000.0;

/// Why what steps came to is not to be trusted.
const NOT_FINITE: &str = "its answers are not finite";
const NOT_TRAINED: &str = "its loss on the one batch that it is trained on does not fall";

/// What is the same for all models.
pub(super) struct Benchmarks<'a> {
    pub(super) args: &'a ModelsArgs,
    /// Each once.
    pub(super) precisions: Vec<Precision>,
    pub(super) actions: Vec<Action>,
    pub(super) stop: Stop,
    pub(super) options: LoadOptions,
    /// Devices that train with that of the options.
    pub(super) beside: &'a [Device],
    /// Of all devices.
    pub(super) device: String,
    pub(super) meter: Meter,
    pub(super) progress: Progress,
}

/// Why there are no steps.
#[derive(Debug)]
enum Failure {
    /// The device does not compute the model in this precision.
    Unsupported(String),
    /// The model's benchmark ends with a return code.
    Failed(u32, String),
    /// Everything ends.
    Over(Error),
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unsupported(reason) => Self::Unsupported(reason),
            error => Self::Failed(MODEL_CREATION, error.to_string()),
        }
    }
}

impl From<ForwardError> for Failure {
    fn from(error: ForwardError) -> Self {
        Self::Failed(FAILED, error.to_string())
    }
}

/// What steps took and came to.
struct Timed {
    /// Milliseconds of each that counts.
    times: Vec<f64>,
    /// What the last one gave.
    numbers: Vec<f32>,
    training: Option<Training>,
}

/// Which steps.
struct Which<'a> {
    entry: &'a Entry,
    benchmark: &'a ModelBenchmark,
    action: Action,
    precision: Precision,
    run: usize,
}

impl Benchmarks<'_> {
    /// Runs a model in each precision, again for each run, and says how that ended.
    ///
    /// # Errors
    /// Figures cannot be written, or the user ended it.
    pub(super) fn model(
        &self,
        entry: &Entry,
        benchmark: &ModelBenchmark,
        output: &mut Output,
    ) -> Result<()> {
        let mut ended = Ended {
            benchmark: self.name(entry, benchmark),
            model: entry.name.into(),
            ..Ended::default()
        };
        let mut unsupported: Vec<Precision> = Vec::new();
        let mut sound = true;
        for which in self.order(entry, benchmark) {
            let precision = which.precision;
            if ended.return_code == 0 && !unsupported.contains(&precision) {
                let remark = match self.steps(&which, &ended.benchmark) {
                    Ok((steps, numbers)) => {
                        let falls = (steps.training.as_ref())
                            .is_none_or(|training| training.loss_after < training.loss_before);
                        output.add(&Record::Steps(Box::new(steps)))?;
                        let doubt = if !numbers.iter().all(|number| number.is_finite()) {
                            Some(NOT_FINITE.to_owned())
                        } else if !falls {
                            Some(NOT_TRAINED.to_owned())
                        } else {
                            None
                        };
                        sound &= doubt.is_none();
                        doubt
                    }
                    Err(Failure::Unsupported(reason)) => {
                        unsupported.push(precision);
                        Some(reason)
                    }
                    Err(Failure::Failed(code, reason)) => {
                        ended.return_code = code;
                        Some(reason)
                    }
                    Err(Failure::Over(error)) => return Err(error),
                };
                let remark = remark.map(|remark| format!("{}: {remark}", precision.name()));
                ended.remarks.extend(remark);
            }
            self.progress.finish_cell(1.0);
        }
        // Another run says the same again.
        ended.remarks = distinct(ended.remarks);
        ended.return_code = match ended.return_code {
            0 if unsupported.len() == self.precisions.len() => NO_SUPPORTED_PRECISION,
            0 if !sound => INVALID_RESULT,
            code => code,
        };
        output.add(&Record::Ended(ended))
    }

    /// All steps of a model, as SuperBench orders them.
    fn order<'a>(&self, entry: &'a Entry, benchmark: &'a ModelBenchmark) -> Vec<Which<'a>> {
        let mut order = Vec::new();
        for run in 0..self.args.run_count.get() {
            for &precision in &self.precisions {
                for &action in &self.actions {
                    order.push(Which {
                        entry,
                        benchmark,
                        action,
                        precision,
                        run,
                    });
                }
            }
        }
        order
    }

    /// The benchmark as SuperBench names it.
    fn name(&self, entry: &Entry, benchmark: &ModelBenchmark) -> String {
        let framework = self.args.framework.name();
        format!(
            "model-benchmarks:{}/{framework}-{}",
            benchmark.group, entry.name
        )
    }

    /// Loads a model and runs its steps; gives what the last one gave besides.
    fn steps(&self, which: &Which<'_>, name: &str) -> Result<(Steps, Vec<f32>), Failure> {
        let Which {
            entry,
            benchmark,
            action,
            precision,
            run,
        } = *which;
        interrupt::check().map_err(Failure::Over)?;
        self.progress
            .label(format!("{}, {}", entry.name, precision.name()));
        let options = LoadOptions {
            dtype: precision.dtype(),
            ..self.options.clone()
        };
        let started = Instant::now();
        let devices = 1 + self.beside.len();
        let mut shape = self.args.batch_shape();
        shape.batch *= devices;
        let mut steps = match action {
            Action::Inference if precision == Precision::Tf32 => {
                let reason = "inference has no TF32, only training does";
                return Err(Failure::Unsupported(reason.into()));
            }
            Action::Inference => (benchmark.inference)(entry, &options, &shape)?,
            Action::Train => {
                let args = (&self.args.training, precision);
                training::steps(entry, &options, self.beside, &shape, args)?
            }
        };
        reset_peak_rss();
        let device = &self.options.device;
        let all = || allocated(device, || self.run_steps(steps.as_mut(), started));
        let ((timed, device_allocated_bytes), readings) = self.meter.during(all);
        let Timed {
            times,
            numbers,
            training,
        } = timed?;
        let seconds = started.elapsed().as_secs_f64();
        if times.is_empty() {
            let reason = "no step counts: the time was over while it warmed up";
            return Err(Failure::Failed(INVALID_RESULT, reason.into()));
        }
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let Facts {
            name: device_name, ..
        } = self.meter.facts();
        let record = Steps {
            benchmark: name.into(),
            model: entry.name.into(),
            action: action.name().into(),
            precision: precision.name().into(),
            device: self.device.clone(),
            device_name,
            run,
            batch: shape.batch,
            shape: steps.shape(),
            parameters: steps.parameters(),
            multiply_adds: steps.multiply_adds(),
            warmup: self.stop.warmup,
            seconds,
            step_ms: Packed(times),
            copies_excluded: self.args.exclude_copy_time,
            training,
            peak_rss_bytes: peak_rss(None),
            device_allocated_bytes,
            // Where copies are excluded, a step is a pass with them and one without. Of several devices the first alone is measured.
            energy: (readings.energy).filter(|_| !self.args.exclude_copy_time && devices == 1),
            resident_ms: self.resident(steps.as_mut(), mean)?,
        };
        Ok((record, numbers))
    }

    /// All steps.
    fn run_steps(
        &self,
        steps: &mut dyn galley_core::Steps,
        started: Instant,
    ) -> Result<Timed, Failure> {
        let mut times = Vec::new();
        let before = steps.loss()?;
        let mut parts = [Duration::ZERO; 4];
        for step in 1.. {
            interrupt::check().map_err(Failure::Over)?;
            let (time, numbers) = self.timed(steps)?;
            if step > self.stop.warmup {
                times.push(milliseconds(time));
                for (sum, part) in parts.iter_mut().zip(steps.parts().into_iter().flatten()) {
                    *sum += part;
                }
            }
            let elapsed = started.elapsed();
            self.progress.within(self.stop.share(step, elapsed));
            if self.stop.is_over(step, elapsed) {
                let count = times.len().max(1) as f64;
                let [copy_ms, forward_ms, backward_ms, update_ms] =
                    parts.map(|part| milliseconds(part) / count);
                let training = before.zip(steps.loss()?).map(|(before, after)| Training {
                    copy_ms,
                    forward_ms,
                    backward_ms,
                    update_ms,
                    loss_before: before,
                    loss_after: after,
                });
                return Ok(Timed {
                    times,
                    numbers,
                    training,
                });
            }
        }
        unreachable!("numbers do not end")
    }

    fn timed(&self, steps: &mut dyn galley_core::Steps) -> Result<(Duration, Vec<f32>), Failure> {
        if self.args.exclude_copy_time && !self.options.device.is_cpu() {
            let (numbers, time) = resident(1, || steps.step());
            let numbers = numbers?;
            if time.is_zero() {
                let reason =
                    "--exclude-copy-time: this model's copies cannot be told from its pass";
                return Err(Failure::Failed(INVALID_ARGUMENT, reason.into()));
            }
            return Ok((time, numbers));
        }
        let started = Instant::now();
        let numbers = steps.step()?;
        Ok((started.elapsed(), numbers))
    }

    /// What a step that takes so many milliseconds takes without copies, where there are any and they are part of it.
    fn resident(
        &self,
        steps: &mut dyn galley_core::Steps,
        step_ms: f64,
    ) -> Result<Option<f64>, Failure> {
        if self.options.device.is_cpu() || self.args.exclude_copy_time {
            return Ok(None);
        }
        let runs = ((RESIDENT_MS / step_ms) as usize).clamp(3, RESIDENT);
        let (done, time) = resident(runs, || steps.step());
        done?;
        Ok(resident_ms(time, runs))
    }
}
