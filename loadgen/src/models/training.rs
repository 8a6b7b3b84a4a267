//! Steps of training, on a batch that is made up.

use std::time::Duration;

use candle_core::Device;
use galley_catalog::{Training, optimizer, trainable, trainer};
use galley_core::{BatchShape, Entry, ForwardError, LoadError, LoadOptions, Steps, synthetic};
use galley_nn::{
    Libraries,
    graph::{Graph, Op},
    train::{Batch, Outcome, Settings, Trainer},
};

use crate::args::{Precision, TrainingArgs};

/// Ids are below this, as SuperBench's are.
const IDS: u32 = 128;
/// The seed of what is dropped.
const DROPOUT: u64 = 42;
/// A step's multiplications beside those of its forward pass: as many again for the gradients of what each layer reads, and for
/// those of its weights.
const PASSES: u64 = 3;

struct Trained {
    trainer: Trainer,
    batch: Batch,
    shape: Vec<usize>,
    multiply_adds: u64,
    last: Option<Outcome>,
}

/// Loads a model and makes steps of training, on the options' device and those beside it; the batch is that of all together.
///
/// # Errors
/// As [`galley_catalog::trainer`]; a number is none of the model's optimizer.
pub(super) fn steps(
    entry: &Entry,
    options: &LoadOptions,
    beside: &[Device],
    shape: &BatchShape,
    args: (&TrainingArgs, Precision),
) -> Result<Box<dyn Steps>, LoadError> {
    let graph = described(entry, |graph| match graph.nodes()[0].op {
        Op::Ids => shape.seq_len,
        // Rows of numbers are a line.
        _ if graph.nodes()[0].shape.height == 1 => shape.seq_len,
        _ => shape.image_size,
    })?;
    let batch = random(&graph, shape.batch);
    let [channels, height, width] = batch.shape;
    let shape = match graph.nodes()[0].op {
        Op::Ids => vec![shape.batch, width],
        _ if height == 1 => vec![shape.batch, width, channels],
        _ => vec![shape.batch, channels, height, width],
    };
    Ok(Box::new(Trained {
        trainer: trainer_of(entry, options, beside, args, &batch)?,
        multiply_adds: PASSES * shape[0] as u64 * graph.multiply_adds(),
        shape,
        batch,
        last: None,
    }))
}

/// A model's trainer for batches like this one.
///
/// # Errors
/// As [`steps`].
pub(super) fn trainer_of(
    entry: &Entry,
    options: &LoadOptions,
    beside: &[Device],
    (args, precision): (&TrainingArgs, Precision),
    batch: &Batch,
) -> Result<Trainer, LoadError> {
    let tf32 = precision == Precision::Tf32;
    if tf32 && options.device.is_cpu() {
        let reason = "only CUDA devices train in TF32: use --precision float32";
        return Err(LoadError::Unsupported(reason.into()));
    }
    let invalid = |reason| LoadError::invalid("optimizer", reason);
    let training = Training {
        size: Some(batch.shape[2]),
        batch: batch.labels.len(),
        beside,
        settings: Settings {
            optimizer: args.optimizer(optimizer(entry.name)).map_err(invalid)?,
            dropout: (!args.no_dropout).then_some(DROPOUT),
            pure_half: args.pure_half,
        },
        libraries: Libraries {
            tf32,
            cudnn: !args.no_cudnn,
        },
    };
    trainer(entry.name, options, &training)
}

/// A model as it is trained, for inputs of the size that is chosen once it is known what they are.
fn described(entry: &Entry, size: impl Fn(&Graph) -> usize) -> Result<Graph, LoadError> {
    let describe = |size| match trainable(entry.name, size) {
        Some(graph) => graph.map_err(|mistake| LoadError::invalid(entry.name, mistake)),
        None => Err(LoadError::Unsupported(format!(
            "{} cannot be trained",
            entry.name
        ))),
    };
    let usual = describe(None)?;
    describe(Some(size(&usual)))
}

/// A batch as SuperBench makes them: ids of even probability or numbers of mean 0 and deviation 1, and labels of even probability.
fn random(graph: &Graph, batch: usize) -> Batch {
    let shape = graph.nodes()[0].shape;
    let len = batch * shape.values();
    let input = match graph.nodes()[0].op {
        Op::Ids => {
            let ids = synthetic::raw24("ids", 0).take(len);
            ids.map(|raw| (raw % IDS) as f32).collect()
        }
        _ => synthetic::normal("inputs", 0).take(len).collect(),
    };
    let classes = graph.shape(graph.output()).channels.max(1) as u32;
    let labels = synthetic::raw24("labels", 0).take(batch);
    Batch {
        input,
        labels: labels.map(|raw| raw % classes).collect(),
        shape: [shape.channels, shape.height, shape.width],
    }
}

impl Steps for Trained {
    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn parameters(&self) -> u64 {
        self.trainer.plan().parameter_count() as u64
    }

    fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    fn step(&mut self) -> Result<Vec<f32>, ForwardError> {
        let outcome = self.trainer.step(&self.batch.input, &self.batch.labels)?;
        self.last = Some(outcome);
        Ok(vec![outcome.loss as f32])
    }

    fn parts(&self) -> Option<[Duration; 4]> {
        let of = |outcome: &Outcome| {
            [
                outcome.copy,
                outcome.forward,
                outcome.backward,
                outcome.update,
            ]
        };
        self.last.as_ref().map(of)
    }

    fn loss(&mut self) -> Result<Option<f64>, ForwardError> {
        let loss = self.trainer.loss(&self.batch.input, &self.batch.labels)?;
        Ok(Some(loss))
    }
}
