//! A plan's steps on a CUDA device, in f16 or f32: images `[n, h, w, c]`, channels last as on the CPU.
//!
//! Every step is a launch. Views of buffers begin at whole vectors; channels that fill the last one are zeros, have weights of
//! zero, and stay zeros, for all activations that networks have keep zero as it is or are followed by none. A pass is made
//! for its plan and its batch, and recorded if it is small. The last bits of an image's result may hang on its batch, whose
//! size decides how the sums of a convolution are shared out.

mod numbers;
mod pass;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use on_device::Network;

use std::collections::HashMap;

use candle_core::Result;

use self::numbers::Numbers;
use super::{
    other_weights,
    weights::{Key, Reader},
};
use crate::{
    cuda::{Span, Target, Weights},
    image::Colours,
    plan::{Form, Plan},
};

/// Values of which views of buffers are whole numbers: a vector of f16.
const VECTOR: usize = 8;

/// What a plan is to be like.
const FORM: Form = Form {
    vector: VECTOR,
    expands: false,
};

/// How pixels come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pixels {
    /// Bytes, of which the colours say what they mean.
    Bytes,
    /// f32 that mean what they are.
    Floats,
}

/// What a pass depends on beside its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) images: usize,
    pub(super) size: [usize; 2],
    pub(super) pixels: Pixels,
}

/// A network's numbers on the device.
#[derive(Debug)]
pub(super) struct Model {
    /// Of each step, by its name, with what they depend on.
    laid: HashMap<String, (Key, Numbers)>,
    /// What a byte of each colour is multiplied by, and what is then added.
    colours: [Span; 2],
}

impl Model {
    /// # Errors
    /// Weights are missing or of another shape.
    pub(super) fn new(
        weights: &mut Weights,
        target: &Target,
        (plan, reader): (&Plan, &Reader<'_>),
        colours: &Colours,
    ) -> Result<Self> {
        let mut laid = HashMap::new();
        for step in &plan.steps {
            if let Some(numbers) = numbers::lay(weights, target, (step, plan), reader)? {
                laid.insert(step.name.clone(), (Key::of(step, plan), numbers));
            }
        }
        Ok(Self {
            laid,
            colours: colours
                .scale_and_shift()
                .map(|values| weights.floats(&values)),
        })
    }

    /// Whether a plan for images of another size has the same weights.
    ///
    /// # Errors
    /// It has not.
    pub(super) fn check(&self, plan: &Plan) -> Result<()> {
        for step in &plan.steps {
            match self.laid.get(&step.name) {
                Some((key, _)) if *key != Key::of(step, plan) => {
                    return Err(other_weights(step, plan));
                }
                _ => (),
            }
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
mod on_device {
    use std::collections::{HashMap, hash_map::Entry};

    use candle_core::Result;
    use rayon::prelude::*;

    use super::{Model, Pixels, Reader, Shape, pass::Launches};
    use crate::{
        cuda::{Buffer, Decoder, Decoding, Gpu, Lane, Pass, Weights},
        image::Colours,
        picture::{Picture, Scored, Unit},
        plan::{Form, Plan},
        workspace::Workspaces,
    };

    /// Images of the largest pass that is recorded: launching a larger one takes less time than computing it.
    const MOST_RECORDED: usize = 64;
    /// Bytes of images that one task copies at least.
    const COPIED_AT_ONCE: usize = 2 << 20;
    /// Passes that are kept, as a server meets few shapes.
    const MOST_PASSES: usize = 256;

    #[derive(Debug)]
    pub(in crate::executor) struct Network {
        gpu: Gpu,
        model: Model,
        weights: Buffer,
        workspaces: Workspaces<Workspace>,
    }

    /// What a pass runs in.
    #[derive(Default)]
    struct Workspace {
        lane: Lane<Shape>,
        decoder: Decoder,
        /// Made once, as that takes a small pass noticeable time.
        passes: HashMap<Shape, Launches>,
    }

    impl Network {
        /// What its plans are to be like.
        pub(in crate::executor) const FORM: Form = super::FORM;

        /// # Errors
        /// Weights are missing or of another shape, or the device has too little memory.
        pub(in crate::executor) fn new(
            gpu: &Gpu,
            (plan, reader): (&Plan, &Reader<'_>),
            colours: &Colours,
        ) -> Result<Self> {
            let target = gpu.target();
            let mut weights = Weights::new(target.element);
            let model = Model::new(&mut weights, &target, (plan, reader), colours)?;
            Ok(Self {
                weights: Buffer::of(gpu, &weights)?,
                gpu: gpu.clone(),
                model,
                workspaces: Workspaces::default(),
            })
        }

        /// See [`Gpu::decoder`].
        pub(in crate::executor) fn decoder(&self) -> Option<Unit> {
            self.gpu.decoder()
        }

        /// Whether a plan for images of another size has the same weights.
        ///
        /// # Errors
        /// It has not.
        pub(in crate::executor) fn check(&self, plan: &Plan) -> Result<()> {
            self.model.check(plan)
        }

        /// Of so many images of pixels that mean what they are, one after the other; gives logits `[images, classes]`.
        ///
        /// # Errors
        /// They are too many for the device.
        pub(in crate::executor) fn forward(
            &self,
            plan: &Plan,
            images: usize,
            pixels: &[f32],
        ) -> Result<Vec<f32>> {
            self.run(plan, (images, Pixels::Floats), &[], |to| {
                for (to, pixel) in to.as_chunks_mut().0.iter_mut().zip(pixels) {
                    *to = pixel.to_le_bytes();
                }
            })
            .map(|scored| scored.logits)
        }

        /// As [`Self::forward`] of images of bytes, and after them of pictures.
        ///
        /// # Errors
        /// As [`Self::forward`].
        pub(in crate::executor) fn forward_pictures(
            &self,
            plan: &Plan,
            images: &[&[u8]],
            pictures: &[Picture<'_>],
        ) -> Result<Scored> {
            let count = images.len() + pictures.len();
            self.run(plan, (count, Pixels::Bytes), pictures, |to| {
                let bytes = images.first().map_or(1, |image| image.len());
                // One core copies slower than the device computes.
                to.par_chunks_exact_mut(bytes)
                    .zip(images)
                    .with_min_len(COPIED_AT_ONCE.div_ceil(bytes))
                    .for_each(|(to, image)| to.copy_from_slice(image));
            })
        }

        fn run(
            &self,
            plan: &Plan,
            (images, pixels): (usize, Pixels),
            pictures: &[Picture<'_>],
            fill: impl FnOnce(&mut [u8]),
        ) -> Result<Scored> {
            let size = plan.buffers[0].size;
            let shape = Shape {
                images,
                size,
                pixels,
            };
            self.workspaces.with(|workspace| {
                let Workspace {
                    lane,
                    decoder,
                    passes,
                } = workspace;
                let target = self.gpu.target();
                if passes.len() >= MOST_PASSES && !passes.contains_key(&shape) {
                    passes.clear();
                }
                let launches = match passes.entry(shape) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => entry.insert(self.model.pass(&target, plan, shape)?),
                };
                let mut layout = launches.layout;
                let pixels = launches.pixels;
                let decoded = pixels.bytes / images * (images - pictures.len());
                let squares = pixels.part(decoded, pixels.bytes - decoded);
                let decoding = Decoding::new(pictures, squares, &mut layout)?;
                let pass = Pass {
                    layout,
                    input: pixels.first(decoded),
                    output: launches.output,
                    key: (images <= MOST_RECORDED).then_some(shape),
                };
                let program = || Ok(launches.program.clone());
                let decoding = (decoder, &decoding);
                let (output, refused) =
                    lane.run_decoding(&self.gpu, &self.weights, &pass, fill, decoding, program)?;
                let pitch = plan.buffers[plan.output.buffer].channels;
                let values = target.element.read(output);
                let rows = values.chunks_exact(pitch);
                let logits = rows.flat_map(|row| &row[..plan.output.channels]);
                Ok(Scored {
                    logits: logits.copied().collect(),
                    refused,
                })
            })
        }
    }
}
