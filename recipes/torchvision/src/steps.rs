//! A network as SuperBench's model benchmarks run it: images of random numbers, in one batch.

use candle_core::{Device, Tensor};
use galley_core::{BatchShape, Entry, ForwardError, LoadError, LoadOptions, Steps, synthetic};
use galley_nn::executor::Executor;

use crate::{Loaded, listed, zoo::Settings};

/// Colours of a pixel.
const COLOURS: usize = 3;

struct Images {
    executor: Executor,
    /// `[n, height, width, 3]`, as the network reads them.
    pixels: Tensor,
    batch: BatchShape,
    parameters: u64,
    multiply_adds: u64,
}

/// Loads a network and makes steps of inference.
///
/// # Errors
/// As [`Loaded::new`]; images of that size are too small for the network.
pub(crate) fn inference(
    entry: &Entry,
    options: &LoadOptions,
    shape: &BatchShape,
) -> Result<Box<dyn Steps>, LoadError> {
    let BatchShape {
        batch: images,
        image_size,
        ..
    } = *shape;
    let Loaded {
        executor,
        parameters,
        config,
        ..
    } = Loaded::new(entry, options, image_size)?;
    let settings = Settings {
        size: [image_size; 2],
        classes: config.classes(),
        auxiliary: false,
    };
    let graph = (listed(entry)?.describe(settings)).map_err(candle_core::Error::from)?;
    let dims = [images, image_size, image_size, COLOURS];
    let numbers: Vec<f32> = (synthetic::normal("images", 0))
        .take(dims.iter().product())
        .collect();
    Ok(Box::new(Images {
        executor,
        pixels: Tensor::from_vec(numbers, &dims[..], &Device::Cpu)?,
        batch: *shape,
        parameters,
        multiply_adds: images as u64 * graph.multiply_adds(),
    }))
}

impl Steps for Images {
    fn shape(&self) -> Vec<usize> {
        let BatchShape {
            batch, image_size, ..
        } = self.batch;
        vec![batch, COLOURS, image_size, image_size]
    }

    fn parameters(&self) -> u64 {
        self.parameters
    }

    fn multiply_adds(&self) -> u64 {
        self.multiply_adds
    }

    fn step(&mut self) -> Result<Vec<f32>, ForwardError> {
        let logits = self.executor.forward(&self.pixels)?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}
