//! The three stages of a recipe that classifies images: a file to a square of pixels, pixels to logits, logits to classes.

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use galley_core::{
    AnswerForm, Architecture, Entry, ForwardError, Input, InputError, LoadOptions, MemoryBudget,
    Output, Pixels, RawTensors, Recipe, RecipeInfo, Signature, synthetic,
};
use galley_nn::{executor::Executor, image::Network};
use serde_json::{Value, json};

use crate::{
    Bounds, View,
    labels::{self, Label},
};

/// Classes in an answer.
const TOP: usize = 5;

/// A photograph of a cup of coffee.
pub static EXAMPLE: &[u8] = include_bytes!("../../efficientnet/examples/coffee_small.jpg");

/// What gives logits for images.
pub trait Scorer: Send + Sync {
    /// Pixels `[n, h, w, 3]` on the host, which mean what they are -> logits `[n, classes]` there, in f32.
    ///
    /// # Errors
    /// The network cannot take images of that size, or the device failed.
    fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor>;

    /// Images as they were decoded, bytes `[height, width, 3]` each -> logits `[images * classes]`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn forward_bytes(
        &self,
        images: &[&[u8]],
        size: (usize, usize),
    ) -> candle_core::Result<Vec<f32>>;

    /// Logits of an image.
    fn classes(&self) -> usize;
}

/// A type of `galley-nn` that has these functions.
macro_rules! scorer {
    ($network:ty) => {
        impl Scorer for $network {
            fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor> {
                <$network>::forward(self, pixels)
            }
            fn forward_bytes(
                &self,
                images: &[&[u8]],
                size: (usize, usize),
            ) -> candle_core::Result<Vec<f32>> {
                <$network>::forward_bytes(self, images, size)
            }
            fn classes(&self) -> usize {
                <$network>::classes(self)
            }
        }
    };
}
scorer!(Network);
scorer!(Executor);

/// What a classifier is made of.
pub struct Parts {
    /// Its network.
    pub network: Box<dyn Scorer>,
    /// Its classes' names, or some of them.
    pub labels: Vec<Label>,
    /// The pixels that the network sees.
    pub view: View,
    /// The numbers that its weights have.
    pub parameters: u64,
}

/// A recipe that classifies images: a file in, its five likeliest classes out.
pub struct Classifier {
    info: RecipeInfo,
    parameters: u64,
    network: Box<dyn Scorer>,
    labels: Vec<Label>,
    view: View,
    max_pixels: u64,
    decode_memory: MemoryBudget,
}

/// A square of pixels: red, green, blue, line by line.
#[derive(Debug)]
pub struct Square {
    side: usize,
    rgb: Rgb,
}

/// Its colours.
#[derive(Debug)]
enum Rgb {
    /// As decoded, 0 to 255. A quarter of the size of what they mean to the network, which a device works out where it
    /// reads them.
    Decoded(Vec<u8>),
    /// As the network takes them.
    Normalised(Vec<f32>),
}

impl Rgb {
    fn decoded(&self) -> Option<&[u8]> {
        match self {
            Self::Decoded(rgb) => Some(rgb),
            Self::Normalised(_) => None,
        }
    }

    fn normalised(&self) -> &[f32] {
        match self {
            Self::Decoded(_) => &[],
            Self::Normalised(values) => values,
        }
    }
}

impl Classifier {
    /// `weights` says which weights the network has.
    pub fn new(entry: &Entry, options: &LoadOptions, weights: String, parts: Parts) -> Self {
        let Parts {
            network,
            labels,
            view,
            parameters,
        } = parts;
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
            parameters,
            network,
            labels,
            view,
            max_pixels: options.limits.max_pixels,
            decode_memory: options.decode_memory.clone(),
        }
    }

    /// Images of one size and one kind of colours -> their logits.
    fn run(&self, images: &[&Square]) -> candle_core::Result<Vec<Vec<f32>>> {
        let side = images.first().map_or(0, |image| image.side);
        let decoded: Option<Vec<&[u8]>> = images.iter().map(|image| image.rgb.decoded()).collect();
        let logits = match decoded {
            Some(rgb) => self.network.forward_bytes(&rgb, (side, side))?,
            None => {
                let normalised = images.iter().flat_map(|image| image.rgb.normalised());
                let values: Vec<f32> = normalised.copied().collect();
                let shape = (images.len(), side, side, 3);
                let pixels = Tensor::from_vec(values, shape, &Device::Cpu)?;
                self.network.forward(&pixels)?.flatten_all()?.to_vec1()?
            }
        };
        Ok(logits
            .chunks_exact(self.network.classes())
            .map(<[f32]>::to_vec)
            .collect())
    }
}

impl Recipe for Classifier {
    type Prepared = Square;
    type Raw = Vec<f32>;

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn architecture(&self) -> Architecture {
        Architecture {
            parameters: Some(self.parameters),
            ..Architecture::default()
        }
    }

    fn signature(&self) -> Signature {
        Signature {
            pixels: Some([self.view.crop; 2]),
            answer: AnswerForm::Classes(TOP.min(self.network.classes())),
        }
    }

    fn example(&self) -> Input {
        Input::File(Bytes::from_static(EXAMPLE))
    }

    fn prepare(&self, input: Input) -> Result<Square, InputError> {
        self.prepare_while(input, &|| true)
    }

    fn prepare_while(&self, input: Input, wanted: &dyn Fn() -> bool) -> Result<Square, InputError> {
        let rgb = match &input {
            Input::File(file) => {
                let bounds = Bounds {
                    max_pixels: self.max_pixels,
                    memory: &self.decode_memory,
                    wanted,
                };
                let image = crate::decode(file, &bounds)?;
                Rgb::Decoded(self.view.of(&image))
            }
            Input::Pixels(pixels) => Rgb::Normalised(interleave(pixels, self.view.crop)?),
            Input::Json(_) => {
                return Err(InputError::WrongKind {
                    expected: "an image file",
                    got: input.describe(),
                });
            }
        };
        Ok(Square {
            side: self.view.crop,
            rgb,
        })
    }

    fn forward(&self, batch: &[&Square]) -> Result<Vec<Vec<f32>>, ForwardError> {
        let mut logits = Vec::with_capacity(batch.len());
        // Only made-up items ever differ in size, and clients that prepare pixels themselves seldom meet others.
        let alike = |a: &&Square, b: &&Square| {
            (a.side, a.rgb.decoded().is_some()) == (b.side, b.rgb.decoded().is_some())
        };
        for images in batch.chunk_by(alike) {
            logits.extend(self.run(images)?);
        }
        Ok(logits)
    }

    fn finish(&self, _: Square, logits: Vec<f32>) -> Output {
        Output::ImageClasses(labels::top(&logits, &self.labels, TOP))
    }

    fn is_finite(&self, raw: &Vec<f32>) -> bool {
        raw.iter().all(|number| number.is_finite())
    }

    fn logits(&self, raw: &Vec<f32>) -> Vec<Vec<f32>> {
        vec![raw.clone()]
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Square {
        let side = size.unwrap_or(self.view.crop).max(1);
        let values = synthetic::raw24("pixels", seed).take(side * side * 3);
        Square {
            side,
            rgb: Rgb::Decoded(values.map(|value| (value >> 16) as u8).collect()),
        }
    }

    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        let expected = "expected one tensor, pixels [n, 3, height, width] in f32";
        let refuse = |got: String| ForwardError::BadTensors(format!("{expected}, got {got}"));
        let Some(pixels) = tensors.get("pixels") else {
            let mut names: Vec<_> = tensors.keys().map(String::as_str).collect();
            names.sort_unstable();
            let names = names.join(", ");
            return Err(refuse(if names.is_empty() {
                "none".into()
            } else {
                names
            }));
        };
        match (pixels.dims(), pixels.dtype()) {
            ([_, 3, height, width], DType::F32) if *height > 0 && *width > 0 => {}
            (shape, dtype) => {
                return Err(refuse(format!("pixels {shape:?} in {}", dtype.as_str())));
            }
        }
        let pixels = pixels.permute((0, 2, 3, 1))?;
        let logits: Vec<Vec<f32>> = self.network.forward(&pixels)?.to_vec2()?;
        let answers = logits.into_iter().map(|logits| json!({"logits": logits}));
        Ok(answers.collect())
    }
}

/// Planes -> colours beside each other, as the network reads lines; for a square of `side` pixels.
fn interleave(pixels: &Pixels, side: usize) -> Result<Vec<f32>, InputError> {
    let area = side * side;
    if pixels.size != [side; 2] || pixels.values.len() != 3 * area {
        let [height, width] = pixels.size;
        return Err(InputError::Unreadable(format!(
            "expected pixels [3, {side}, {side}], got {} values of {height} x {width} pixels",
            pixels.values.len()
        )));
    }
    // What is not a number would come out as a score that is none.
    if !pixels.values.iter().all(|value| value.is_finite()) {
        return Err(InputError::Unreadable(
            "expected finite pixels, got infinity or NaN".into(),
        ));
    }
    let (red, rest) = pixels.values.split_at(area);
    let (green, blue) = rest.split_at(area);
    let colours = red.iter().zip(green).zip(blue);
    Ok(colours
        .flat_map(|((&red, &green), &blue)| [red, green, blue])
        .collect())
}
