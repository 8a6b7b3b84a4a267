//! What training comes to, to be held against another program's: the loss of each step, and norms at the end.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor, safetensors};
use galley_core::LoadOptions;
use galley_nn::train::{Batch, trace};
use serde_json::json;

use super::{chosen, training::trainer_of};
use crate::{
    args::ModelsArgs,
    error::{Error, Result},
};

/// Trains a model on the file's batch and prints a JSON line for each step's loss, and one for each parameter after the last,
/// in the first of the precisions. Several devices each take a part of the batch.
///
/// # Errors
/// There is more than one model or no precision, the file is none of batches for it, or the model cannot be trained.
pub(super) fn run(
    args: &ModelsArgs,
    options: &LoadOptions,
    beside: &[Device],
    input: &Path,
) -> Result<()> {
    let [(entry, _)] = chosen(&args.names())?[..] else {
        let reason = "expected one model to print the losses of";
        return Err(Error::option("--losses", reason));
    };
    let Some(&precision) = args.precision.first() else {
        let reason = "expected one to print the losses in";
        return Err(Error::option("--precision", reason));
    };
    let options = LoadOptions {
        dtype: precision.dtype(),
        ..options.clone()
    };
    let unreadable = |error: candle_core::Error| {
        Error::option("--input", format!("{}: {error}", input.display()))
    };
    let tensors: HashMap<String, Tensor> =
        safetensors::load(input, &Device::Cpu).map_err(unreadable)?;
    let batch = Batch::read(&tensors).map_err(unreadable)?;
    let training = (&args.training, precision);
    let mut trainer = trainer_of(entry, &options, beside, training, &batch)?;
    let trace = trace(&mut trainer, &batch, args.num_steps)
        .map_err(|error| Error::option("--input", error.to_string()))?;
    for (step, loss) in trace.losses.iter().enumerate() {
        println!("{}", json!({ "step": step, "loss": loss }));
    }
    for norms in &trace.parameters {
        let line = json!({
            "parameter": norms.name,
            "gradient_norm": norms.gradient,
            "value_norm": norms.value,
        });
        println!("{line}");
    }
    Ok(())
}
