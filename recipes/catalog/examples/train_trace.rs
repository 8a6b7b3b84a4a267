//! Trains a network on one batch and prints what came of it, a JSON line each: the loss before each step, and of each
//! parameter the norms of its last gradient and of its values after that.
//!
//! `cargo run --release --example train_trace -- NAME WEIGHTS_FOLDER INPUT.safetensors STEPS RATE`

use std::{error::Error, path::Path};

use candle_core::{Device, safetensors};
use galley_catalog::{Training, optimizer, trainer};
use galley_core::{LoadOptions, WeightSource};
use galley_nn::train::{Batch, Settings, trace};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, weights, input, steps, rate] = &arguments[..] else {
        return Err("expected NAME WEIGHTS_FOLDER INPUT.safetensors STEPS RATE".into());
    };
    let batch = Batch::read(&safetensors::load(Path::new(input), &Device::Cpu)?)?;
    let options = LoadOptions {
        weights: WeightSource::Dir(weights.into()),
        ..LoadOptions::default()
    };
    let training = Training {
        size: Some(batch.shape[2]),
        batch: batch.labels.len(),
        settings: Settings {
            optimizer: optimizer(name).with_rate(rate.parse()?),
            dropout: None,
        },
    };
    let trace = trace(
        &mut trainer(name, &options, &training)?,
        &batch,
        steps.parse()?,
    )?;
    for (step, loss) in trace.losses.iter().enumerate() {
        println!(r#"{{"step": {step}, "loss": {loss}}}"#);
    }
    for norms in &trace.parameters {
        let (name, gradient, value) = (&norms.name, norms.gradient, norms.value);
        println!(
            r#"{{"parameter": "{name}", "gradient_norm": {gradient}, "value_norm": {value}}}"#
        );
    }
    Ok(())
}
