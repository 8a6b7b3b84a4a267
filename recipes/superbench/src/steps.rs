//! A model as SuperBench's model benchmarks run it: sequences of random ids or numbers, in one batch.

use galley_core::{
    BatchShape, Entry, ForwardError, LoadError, LoadOptions, Steps, counted, synthetic,
};
use galley_nn::Backend;

use crate::{
    model,
    network::{Batch, Network, Sequence},
    weights,
    zoo::{Family, Model},
};

/// Ids are below this, as SuperBench's are.
pub(crate) const IDS: u32 = 128;

struct Sequences {
    network: Network,
    batch: Batch,
    shape: Vec<usize>,
    parameters: u64,
    multiply_adds: u64,
}

/// Loads a model and makes steps of inference.
///
/// # Errors
/// As [`Network::load`]; sequences are longer than the model has positions.
pub(crate) fn inference(
    entry: &Entry,
    options: &LoadOptions,
    shape: &BatchShape,
) -> Result<Box<dyn Steps>, LoadError> {
    let BatchShape { batch, seq_len, .. } = *shape;
    let backend = Backend::of(&options.device, options.dtype).map_err(LoadError::Unsupported)?;
    let model = model(entry)?;
    let positions = model.transformer().max_positions;
    if model.family != Family::Lstm && seq_len > positions {
        let reason = format!("expected at most {positions}, got {seq_len}");
        return Err(LoadError::invalid("length of sequences", reason));
    }
    let (weights, parameters) = counted(weights(entry, options)?.1);
    let network = Network::load(model, &backend, &weights)?;
    let sequences: Vec<Sequence> = (0..batch as u64)
        .map(|seed| random(model, seq_len, seed))
        .collect();
    let mut shape = vec![batch, seq_len];
    if model.family == Family::Lstm {
        shape.push(model.lstm().input);
    }
    Ok(Box::new(Sequences {
        batch: network.batch(&sequences.iter().collect::<Vec<_>>())?,
        network,
        shape,
        parameters: parameters.get(),
        multiply_adds: batch as u64 * model.multiply_adds(seq_len),
    }))
}

/// A sequence as SuperBench makes it: ids of even probability, or numbers of mean 0 and deviation 1.
fn random(model: &Model, length: usize, seed: u64) -> Sequence {
    match model.family {
        Family::Lstm => {
            let numbers = synthetic::normal("rows", seed);
            Sequence::Rows(numbers.take(length * model.lstm().input).collect())
        }
        Family::Bert | Family::Gpt2 => {
            let ids = synthetic::raw24("ids", seed).take(length);
            Sequence::Ids(ids.map(|raw| raw % IDS).collect())
        }
    }
}

impl Steps for Sequences {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn parameters(&self) -> u64 {
        self.parameters
    }

    fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    fn step(&mut self) -> Result<Vec<f32>, ForwardError> {
        Ok(self.network.run(&self.batch)?)
    }
}
