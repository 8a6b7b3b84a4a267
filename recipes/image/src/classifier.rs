//! The three stages of a recipe that classifies images: a file to a square of pixels, pixels to logits, logits to classes.

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use galley_core::{
    AnswerForm, Architecture, Decoded, Entry, ForwardError, Input, InputError, LoadError,
    LoadOptions, MemoryBudget, Output, RawTensors, Recipe, RecipeInfo, Signature, synthetic,
};
use galley_nn::{
    executor::Executor,
    image::Network,
    picture::{Picture, Scored, Unit},
};
use serde_json::{Value, json};

use crate::{
    Bounds, View,
    jpeg::{self, Compressed},
    labels::{self, Label},
    resizes::Resizes,
    square::{Counts, Rgb, Square, interleave},
};

/// Classes in an answer.
const TOP: usize = 5;

/// The option that says what decodes JPEG files.
const JPEG: &str = "jpeg";

/// What a classifier's options do.
pub const OPTIONS: &[(&str, &str)] = &[(
    JPEG,
    "what decodes JPEG files: cpu, or device, which is nvJPEG on a CUDA device (default: device where it has engines for that)",
)];

/// A photograph of a cup of coffee.
pub static EXAMPLE: &[u8] = include_bytes!("../../efficientnet/examples/coffee_small.jpg");

/// What gives logits for images.
pub trait Scorer: Send + Sync {
    /// Pixels `[n, h, w, 3]` on the host, which mean what they are -> logits `[n, classes]` there, in f32.
    ///
    /// # Errors
    /// The network cannot take images of that size, or the device failed.
    fn forward(&self, pixels: &Tensor) -> candle_core::Result<Tensor>;

    /// Images as they were decoded, bytes `[side, side, 3]` each, and after them pictures, of which a device may refuse some.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn forward_pictures(
        &self,
        images: &[&[u8]],
        pictures: &[Picture<'_>],
        side: usize,
    ) -> candle_core::Result<Scored>;

    /// What the device decodes pictures with; none where it does not.
    fn decoder(&self) -> Option<Unit>;

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
            fn forward_pictures(
                &self,
                images: &[&[u8]],
                pictures: &[Picture<'_>],
                side: usize,
            ) -> candle_core::Result<Scored> {
                <$network>::forward_pictures(self, images, pictures, side)
            }
            fn decoder(&self) -> Option<Unit> {
                <$network>::decoder(self)
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
    resizes: Resizes,
    max_pixels: u64,
    decode_memory: MemoryBudget,
    /// What the device decodes pictures with, if it is to.
    decoder: Option<Unit>,
    decoded: Counts,
}

impl Classifier {
    /// `weights` says which weights the network has.
    ///
    /// # Errors
    /// The device is to decode JPEG files and cannot, or the option is neither that nor the CPU.
    pub fn new(
        entry: &Entry,
        options: &LoadOptions,
        weights: String,
        parts: Parts,
    ) -> Result<Self, LoadError> {
        let Parts {
            network,
            labels,
            view,
            parameters,
        } = parts;
        Ok(Self {
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
            decoder: decoder(entry, options, network.as_ref())?,
            network,
            labels,
            view,
            resizes: Resizes::new(view),
            max_pixels: options.limits.max_pixels,
            decode_memory: options.decode_memory.clone(),
            decoded: Counts::default(),
        })
    }

    /// Images of one size that mean what they are -> their logits.
    fn run_normalised(&self, images: &[&Square]) -> candle_core::Result<Vec<Vec<f32>>> {
        let side = images.first().map_or(0, |image| image.side);
        let normalised = images.iter().flat_map(|image| image.rgb.normalised());
        let values: Vec<f32> = normalised.copied().collect();
        let shape = (images.len(), side, side, 3);
        let pixels = Tensor::from_vec(values, shape, &Device::Cpu)?;
        self.network.forward(&pixels)?.to_vec2()
    }

    /// Images of one size of bytes, decoded or not -> their logits.
    fn run_bytes(&self, images: &[&Square]) -> Result<Vec<Vec<f32>>, ForwardError> {
        let side = images.first().map_or(0, |image| image.side);
        let mut logits = vec![Vec::new(); images.len()];
        let places = || images.iter().enumerate();
        let decoded = places().filter_map(|(place, image)| Some((place, image.rgb.decoded()?)));
        let (decoded, pixels): (Vec<usize>, Vec<&[u8]>) = decoded.unzip();
        let pictures = places().filter_map(|(place, image)| Some((place, image.rgb.picture()?)));
        let (compressed, pictures): (Vec<usize>, Vec<Picture<'_>>) = pictures.unzip();
        let scored = self.network.forward_pictures(&pixels, &pictures, side)?;
        let rows = scored.logits.chunks_exact(self.network.classes());
        for (place, row) in decoded.iter().chain(&compressed).zip(rows) {
            logits[*place] = row.to_vec();
        }
        let refused = scored.refused.iter();
        let refused: Vec<usize> = refused.map(|&picture| compressed[picture]).collect();
        self.decoded.on_device(compressed.len() - refused.len());
        if refused.is_empty() {
            return Ok(logits);
        }
        let views = refused.iter().map(|&place| self.decode_here(images[place]));
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let views: Vec<&[u8]> = views.iter().map(Vec::as_slice).collect();
        let scored = self.network.forward_pictures(&views, &[], side)?;
        let rows = scored.logits.chunks_exact(self.network.classes());
        for (place, row) in refused.iter().zip(rows) {
            logits[*place] = row.to_vec();
        }
        Ok(logits)
    }

    /// What a device has refused, one at a time. Its size is bounded, as it was to go to a device, and no memory is waited for: that
    /// might be held by those that wait for this.
    fn decode_here(&self, image: &Square) -> Result<Vec<u8>, ForwardError> {
        let Rgb::Compressed { file, .. } = &image.rgb else {
            return Ok(Vec::new());
        };
        let bounds = Bounds {
            max_pixels: self.max_pixels,
            memory: &MemoryBudget::unlimited(),
            wanted: &|| true,
        };
        // It was seen to be whole, so that this is no fault of the file's.
        let image = crate::decode(file, &bounds)
            .map_err(|error| ForwardError::Failed(candle_core::Error::Msg(error.to_string())))?;
        self.decoded.on_cpu(1);
        Ok(self.view.of(&image))
    }

    /// A file, decoded or checked.
    fn read(&self, file: &Bytes, bounds: &Bounds) -> Result<Rgb, InputError> {
        if self.decoder.is_some()
            && let Some(compressed) = Compressed::of(file, bounds)
            && let Some(resize) = self.resizes.of(compressed.size, jpeg::orientation(file))
        {
            return Ok(Rgb::Compressed {
                file: file.slice(..compressed.len),
                resize,
            });
        }
        let image = crate::decode(file, bounds)?;
        self.decoded.on_cpu(1);
        Ok(Rgb::Decoded(self.view.of(&image)))
    }
}

/// What the network's device decodes with, if it is to.
fn decoder(
    entry: &Entry,
    options: &LoadOptions,
    network: &dyn Scorer,
) -> Result<Option<Unit>, LoadError> {
    let mistake =
        |reason: String| LoadError::invalid(format!("option {}.{JPEG}", entry.name), reason);
    match options.options.get(JPEG).map(String::as_str) {
        None => Ok(network.decoder().filter(|unit| *unit == Unit::Engines)),
        Some("cpu") => Ok(None),
        Some("device") => network.decoder().map(Some).ok_or_else(|| {
            let device = options.device_name();
            mistake(format!(
                "expected a CUDA device and libnvjpeg.so.13 or .12, got {device} without"
            ))
        }),
        Some(other) => Err(mistake(format!("expected cpu or device, got {other:?}"))),
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

    fn decoder(&self) -> Option<&'static str> {
        self.decoder.map(Unit::name)
    }

    fn decoded(&self) -> Decoded {
        self.decoded.take()
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
                self.read(file, &bounds)?
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
            (a.side, a.rgb.is_normalised()) == (b.side, b.rgb.is_normalised())
        };
        for images in batch.chunk_by(alike) {
            logits.extend(match images[0].rgb.is_normalised() {
                true => self.run_normalised(images)?,
                false => self.run_bytes(images)?,
            });
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

#[cfg(test)]
mod tests;
