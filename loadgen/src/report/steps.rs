//! The records of `bench models`.

use serde::{Deserialize, Serialize};

use super::{packed::Packed, record::Energy};

/// Steps of a model on a device in a precision, from loading to the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// The benchmark as SuperBench names it: `model-benchmarks:resnet/galley-resnet50`.
    pub benchmark: String,
    /// The model.
    pub model: String,
    /// What a step does: `inference`, `train`.
    pub action: String,
    /// What the model computes in: `float32`.
    pub precision: String,
    /// The device; or those that trained together, as `cuda:0,cuda:1`.
    pub device: String,
    /// The device's model; absent for the CPU, which the machine names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Which run, from 0.
    pub run: usize,
    /// Inputs in a batch, of all devices.
    pub batch: usize,
    /// The shape of the batch.
    pub shape: Vec<usize>,
    /// The model's parameters.
    pub parameters: u64,
    /// Multiplications, each with an addition, of a step.
    pub multiply_adds: u64,
    /// Steps before those that count.
    pub warmup: usize,
    /// From loading to the last step.
    pub seconds: f64,
    /// What each step that counts took, in order.
    pub step_ms: Packed,
    /// Whether copies to the device and back are left out of that.
    #[serde(default)]
    pub copies_excluded: bool,
    /// What steps of training were made of, and what they came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// What a step takes, in the mean, on a batch that lies in the device's memory already, without the copy back; none on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_ms: Option<f64>,
    /// The process's peak memory during the steps, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// The most that networks had allocated of the first device's memory at a time; none on the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_allocated_bytes: Option<u64>,
    /// What the steps consumed, where there is a counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
}

impl Steps {
    /// Whether others are of the same model, action and precision, whichever run they are of.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        (&self.benchmark, &self.action, &self.precision)
            == (&other.benchmark, &other.action, &other.precision)
    }
}

/// Steps of training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Milliseconds of a step, in the mean of those that count, of the batch's copy to the device.
    #[serde(default)]
    pub copy_ms: f64,
    /// From the batch to the loss.
    pub forward_ms: f64,
    /// From there to all gradients.
    pub backward_ms: f64,
    /// Of the parameters.
    pub update_ms: f64,
    /// The loss on the batch before the first step, without dropout.
    pub loss_before: f64,
    /// And after the last one.
    pub loss_after: f64,
}

/// What became of a model's benchmark.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The benchmark as SuperBench names it.
    pub benchmark: String,
    /// The model.
    pub model: String,
    /// SuperBench's return code: 0 is well.
    pub return_code: u32,
    /// What did not run, or ran and is not to be trusted, and why.
    pub remarks: Vec<String>,
}
