//! The network on a CUDA device: images `[n, h, w, c]`, channels last as on the CPU, in f16 or f32.
//!
//! Every layer is a launch of its own, the matrix product among them: on such a device an expanded image is soon
//! written and read. The depthwise convolution adds up what squeeze-excite needs on its way, whose gates the projection
//! then applies to its input. A pass is planned for its shape ([`model`]), in memory that layers use one after the other
//! ([`scratch`]); only logits come back. What decides the order of sums follows from the layer alone, so that an image's
//! result does not depend on its batch.

pub(crate) mod depthwise;
#[cfg(test)]
mod emulator;
mod layout;
mod model;
pub(crate) mod planner;
mod scratch;
mod squeeze;
mod stem;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use on_device::Network;

#[cfg(feature = "cuda")]
mod on_device {
    use std::collections::{HashMap, hash_map::Entry};

    use candle_core::Result;
    use rayon::prelude::*;

    use super::{
        model::{Model, Plan, Shape},
        stem::Pixels,
    };
    use crate::{
        cuda::{Buffer, Decoder, Decoding, Gpu, Lane, Pass, Weights},
        image::{Layers, padding::Size},
        picture::{Picture, Scored, Unit},
        workspace::Workspaces,
    };

    /// Images of the largest pass that is recorded: launching a larger one takes less time than computing it.
    const MOST_RECORDED: usize = 32;
    /// Bytes of images that one task copies at least.
    const COPIED_AT_ONCE: usize = 2 << 20;
    /// Plans that are kept, as a server meets few shapes.
    const MOST_PLANS: usize = 256;

    #[derive(Debug)]
    pub(in crate::image) struct Network {
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
        plans: HashMap<Shape, Plan>,
    }

    impl Network {
        /// # Errors
        /// The shapes do not fit together, a layer is none that there are kernels for, or the device has too little
        /// memory.
        pub(in crate::image) fn new(gpu: &Gpu, layers: &Layers) -> Result<Self> {
            let mut weights = Weights::new(gpu.target().element);
            let model = Model::new(&mut weights, layers)?;
            Ok(Self {
                weights: Buffer::of(gpu, &weights)?,
                gpu: gpu.clone(),
                model,
                workspaces: Workspaces::default(),
            })
        }

        /// See [`Gpu::decoder`].
        pub(in crate::image) fn decoder(&self) -> Option<Unit> {
            self.gpu.decoder()
        }

        pub(in crate::image) fn classes(&self) -> usize {
            self.model.classes()
        }

        /// Of so many images of pixels that mean what they are, one after the other; gives logits `[images, classes]`.
        ///
        /// # Errors
        /// The images are too small for the network or too many for the device.
        pub(in crate::image) fn forward(
            &self,
            images: usize,
            size: Size,
            pixels: &[f32],
        ) -> Result<Vec<f32>> {
            let shape = Shape {
                images,
                size,
                pixels: Pixels::Floats,
            };
            self.run(shape, &[], |to| {
                for (to, pixel) in to.chunks_exact_mut(size_of::<f32>()).zip(pixels) {
                    to.copy_from_slice(&pixel.to_le_bytes());
                }
            })
            .map(|scored| scored.logits)
        }

        /// As [`Self::forward`] of images of bytes, and after them of pictures.
        ///
        /// # Errors
        /// As [`Self::forward`].
        pub(in crate::image) fn forward_pictures(
            &self,
            images: &[&[u8]],
            pictures: &[Picture<'_>],
            size: Size,
        ) -> Result<Scored> {
            let shape = Shape {
                images: images.len() + pictures.len(),
                size,
                pixels: Pixels::Bytes,
            };
            let bytes = shape.image_len();
            self.run(shape, pictures, |to| {
                // One core copies slower than the device computes.
                to.par_chunks_exact_mut(bytes)
                    .zip(images)
                    .with_min_len(COPIED_AT_ONCE.div_ceil(bytes))
                    .for_each(|(to, image)| to.copy_from_slice(image));
            })
        }

        /// `fill` writes the images that are no pictures.
        fn run(
            &self,
            shape: Shape,
            pictures: &[Picture<'_>],
            fill: impl FnOnce(&mut [u8]),
        ) -> Result<Scored> {
            if shape.images == 0 {
                return Ok(Scored::default());
            }
            (self.workspaces).with(|workspace| self.run_in(workspace, shape, pictures, fill))
        }

        fn run_in(
            &self,
            workspace: &mut Workspace,
            shape: Shape,
            pictures: &[Picture<'_>],
            fill: impl FnOnce(&mut [u8]),
        ) -> Result<Scored> {
            let Workspace {
                lane,
                decoder,
                plans,
            } = workspace;
            let target = self.gpu.target();
            if plans.len() >= MOST_PLANS && !plans.contains_key(&shape) {
                plans.clear();
            }
            let plan = match plans.entry(shape) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.model.plan(&target, shape)?),
            };
            let mut layout = plan.layout;
            let decoded = plan.pixels.bytes / shape.images * (shape.images - pictures.len());
            let squares = plan.pixels.part(decoded, plan.pixels.bytes - decoded);
            let decoding = Decoding::new(pictures, squares, &mut layout)?;
            let pass = Pass {
                layout,
                input: plan.pixels.first(decoded),
                output: plan.logits,
                key: (shape.images <= MOST_RECORDED).then_some(shape),
            };
            let program = || Ok(plan.program.clone());
            let decoding = (decoder, &decoding);
            let (output, refused) =
                lane.run_decoding(&self.gpu, &self.weights, &pass, fill, decoding, program)?;
            let values = target.element.read(output);
            let rows = values.chunks_exact(self.model.padded_classes());
            let logits = rows.flat_map(|row| &row[..self.model.classes()]);
            Ok(Scored {
                logits: logits.copied().collect(),
                refused,
            })
        }
    }
}
