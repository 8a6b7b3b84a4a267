//! Networks by their recipes' names, to be trained.

use candle_core::Device;
use galley_core::{LoadError, LoadOptions, Source, synthetic, weights};
use galley_nn::{
    Backend, Libraries,
    graph::{Graph, Mistake},
    train::{Optimizer, Settings, Trainer},
};

/// How a recipe's network is to be trained.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// Pixels down as across, or tokens or steps; without it, as many as [`trainable`] says.
    pub size: Option<usize>,
    /// Examples of a step, of all devices together.
    pub batch: usize,
    /// CUDA devices that each take an equal part of a step, beside that of the options.
    pub beside: &'a [Device],
    /// The optimizer, and dropout.
    pub settings: Settings,
    /// What the vendor's libraries do on a CUDA device.
    pub libraries: Libraries,
}

/// The network of the recipe of this name as it is trained, if it can be. `size` is that of its inputs: pixels down as across, or
/// tokens or steps of a sequence; without it, that of the images that it is served with, or of SuperBench's sequences.
///
/// # Errors
/// Inputs of that size do not fit it.
pub fn trainable(name: &str, size: Option<usize>) -> Option<Result<Graph, Mistake>> {
    galley_torchvision::trained(name, size).or_else(|| galley_superbench::trained(name, size))
}

/// What SuperBench trains the network of the recipe of this name with.
pub fn optimizer(name: &str) -> Optimizer {
    galley_superbench::optimizer(name).unwrap_or(Optimizer::SGD)
}

/// A trainer of the network of the recipe of this name. Of the options, it reads those of device, dtype and weights.
///
/// # Errors
/// There is no such recipe, its network cannot be trained so, its weights are missing or wrong, or nothing is trained on the
/// device.
pub fn trainer(
    name: &str,
    options: &LoadOptions,
    training: &Training<'_>,
) -> Result<Trainer, LoadError> {
    let entry = crate::find(name)?;
    let graph = match trainable(name, training.size) {
        Some(graph) => graph.map_err(|mistake| LoadError::invalid(name, mistake))?,
        None => {
            let message = format!("{name} cannot be trained: it is not described as a graph");
            return Err(LoadError::Unsupported(message));
        }
    };
    let Training {
        batch,
        beside,
        settings,
        libraries,
        ..
    } = training;
    let backend = |device| {
        let backend = Backend::of(device, options.dtype)?.with_libraries(*libraries);
        Trainer::runs_on(&backend).map(|()| backend)
    };
    let backends = [&options.device].into_iter().chain(*beside).map(backend);
    let backends: Vec<_> = backends
        .collect::<Result<_, _>>()
        .map_err(LoadError::Unsupported)?;
    let weights = match entry.source(&options.weights)? {
        Source::Dir { path, .. } => weights::safetensors_dir(&path)?,
        Source::Synthetic(seed) => synthetic::var_builder(seed),
        Source::Bundled(what) => {
            return Err(LoadError::Unsupported(format!("{what} cannot be trained")));
        }
    };
    Ok(Trainer::on(&graph, *batch, &weights, settings, &backends)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use galley_core::WeightSource;

    fn told(name: &str, size: Option<usize>, batch: usize) -> String {
        let options = LoadOptions {
            weights: WeightSource::Synthetic(None),
            ..LoadOptions::default()
        };
        let settings = Settings {
            optimizer: optimizer(name),
            dropout: None,
            pure_half: false,
        };
        let training = Training {
            size,
            batch,
            beside: &[],
            settings,
            libraries: Libraries::default(),
        };
        match trainer(name, &options, &training) {
            Ok(trainer) => format!("{} parameters", trainer.plan().parameter_count()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn networks_are_trained_by_name_and_others_refused() {
        assert_eq!(told("squeezenet1_1", Some(64), 2), "1235496 parameters");
        let mistake = told("bert-base", Some(513), 1);
        let expected = "expected 512 tokens at most, got [1, 1, 513]";
        assert!(mistake.ends_with(expected), "{mistake}");
        let refused = told("echo", None, 1);
        assert!(refused.starts_with("echo cannot be trained"), "{refused}");
        assert!(told("resnet51", None, 1).contains("unknown recipe"));
        // One pixel is left of such images.
        let small = told("resnet18", Some(32), 1);
        assert!(
            small.contains("at least two values of each channel"),
            "{small}"
        );
        let auxiliary = told("inception_v3", Some(224), 2);
        assert!(
            auxiliary.starts_with("inception_v3: AuxLogits.conv1.conv"),
            "{auxiliary}"
        );
    }
}
