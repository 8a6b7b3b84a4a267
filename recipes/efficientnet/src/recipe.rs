//! The three stages: a file to a square of pixels, pixels to logits, logits to classes.

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use galley_core::{
    Entry, ForwardError, Input, InputError, InputLimits, LoadOptions, Output, RawTensors, Recipe,
    RecipeInfo, synthetic,
};
use galley_nn::pool;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::{
    decode,
    labels::{self, Label},
    network::Network,
    resize::View,
    spec::{Normalise, Spec},
};

/// Classes in an answer.
const TOP: usize = 5;
/// Images that go through the network together. A CPU gains nothing from more, and each needs up to 16 MiB in between.
const CHUNK: usize = 4;

static EXAMPLE: &[u8] = include_bytes!("../examples/coffee_small.jpg");

/// A loaded EfficientNet.
pub(crate) struct EfficientNet {
    info: RecipeInfo,
    network: Network,
    labels: Vec<Label>,
    view: View,
    scale: Scale,
    limits: InputLimits,
    device: Device,
}

/// A square of pixels, as decoded: red, green, blue of 0 to 255, line by line. A quarter of the size of what the
/// network takes, which is made when the batch is.
#[derive(Debug)]
pub(crate) struct Pixels {
    side: usize,
    rgb: Vec<u8>,
}

impl EfficientNet {
    pub(crate) fn new(
        entry: &Entry,
        options: &LoadOptions,
        weights: String,
        (spec, network, labels): (Spec, Network, Vec<Label>),
    ) -> Self {
        Self {
            info: RecipeInfo {
                name: entry.name,
                input_kind: entry.input_kind,
                weights,
                dtype: options.dtype.as_str(),
                device: options.device_name(),
                cost_unit: "images",
                inline_bytes: 0,
                max_batch_size: None,
            },
            network,
            labels,
            view: spec.view,
            scale: Scale::new(&spec.normalise),
            limits: options.limits,
            device: options.device.clone(),
        }
    }

    /// Images of one size -> their logits.
    fn logits(&self, images: &[&Pixels]) -> candle_core::Result<Vec<Vec<f32>>> {
        let side = images.first().map_or(0, |image| image.side);
        let size = side * side * 3;
        let mut values = vec![0.0; images.len() * size];
        values
            .par_chunks_exact_mut(size)
            .zip(images)
            .for_each(|(values, image)| self.scale.apply(&image.rgb, values));
        let shape = (images.len(), side, side, 3);
        let pixels = Tensor::from_vec(values, shape, &self.device)?;
        self.network.forward(&pixels)?.to_vec2()
    }
}

impl Recipe for EfficientNet {
    type Prepared = Pixels;
    type Raw = Vec<f32>;

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn example(&self) -> Input {
        Input::File(Bytes::from_static(EXAMPLE))
    }

    fn prepare(&self, input: Input) -> Result<Pixels, InputError> {
        let Input::File(file) = &input else {
            return Err(InputError::WrongKind {
                expected: "an image file",
                got: input.describe(),
            });
        };
        let image = decode::decode(file, &self.limits)?;
        Ok(Pixels {
            side: self.view.crop,
            rgb: self.view.of(&image),
        })
    }

    fn forward(&self, batch: &[&Pixels]) -> Result<Vec<Vec<f32>>, ForwardError> {
        pool::run(|| {
            let mut logits = Vec::with_capacity(batch.len());
            // Only made-up items ever differ in size.
            for images in batch.chunk_by(|a, b| a.side == b.side) {
                for images in images.chunks(CHUNK) {
                    logits.extend(self.logits(images)?);
                }
            }
            Ok(logits)
        })
    }

    fn finish(&self, _: Pixels, logits: Vec<f32>) -> Output {
        Output::ImageClasses(labels::top(&logits, &self.labels, TOP))
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Pixels {
        let side = size.unwrap_or(self.view.crop).max(1);
        let values = synthetic::raw24("pixels", seed).take(side * side * 3);
        Pixels {
            side,
            rgb: values.map(|value| (value >> 16) as u8).collect(),
        }
    }

    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let expected = "expected one tensor, pixels [n, 3, height, width] in f32";
        let refuse = |got: String| ForwardError::BadTensors(format!("{expected}, got {got}"));
        let Some(pixels) = tensors.get("pixels") else {
            let mut names: Vec<_> = tensors.keys().map(String::as_str).collect();
            names.sort_unstable();
            return Err(refuse(names.join(", ")));
        };
        match (pixels.dims(), pixels.dtype()) {
            ([_, 3, height, width], DType::F32) if *height > 0 && *width > 0 => {}
            (shape, dtype) => {
                return Err(refuse(format!("pixels {shape:?} in {}", dtype.as_str())));
            }
        }
        let pixels = pixels.to_device(&self.device)?.permute((0, 2, 3, 1))?;
        let mut answers = Vec::new();
        let n = pixels.dim(0)?;
        for first in (0..n).step_by(CHUNK) {
            let images = pixels
                .narrow(0, first, CHUNK.min(n - first))?
                .contiguous()?;
            let logits: Vec<Vec<f32>> = self.network.forward(&images)?.to_vec2()?;
            answers.extend(logits.into_iter().map(|logits| json!({"logits": logits})));
        }
        Ok(answers)
    }
}

/// What each of the 256 values of each colour becomes.
struct Scale([[f32; 256]; 3]);

impl Scale {
    fn new(normalise: &Normalise) -> Self {
        let of = |colour: usize, byte: usize| {
            (byte as f64 - normalise.mean[colour]) / normalise.deviation[colour]
        };
        Self(std::array::from_fn(|colour| {
            std::array::from_fn(|byte| of(colour, byte) as f32)
        }))
    }

    fn apply(&self, rgb: &[u8], values: &mut [f32]) {
        let [red, green, blue] = &self.0;
        for (pixel, values) in rgb.chunks_exact(3).zip(values.chunks_exact_mut(3)) {
            values[0] = red[usize::from(pixel[0])];
            values[1] = green[usize::from(pixel[1])];
            values[2] = blue[usize::from(pixel[2])];
        }
    }
}
