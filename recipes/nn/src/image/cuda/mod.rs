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
    use half::f16;
    use rayon::prelude::*;

    use super::{
        model::{Model, Plan, Shape},
        stem::Pixels,
    };
    use crate::{
        cuda::{Buffer, Element, Gpu, Lane, Pass, Weights},
        image::{Layers, padding::Size},
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
            self.run(shape, |to| {
                for (to, pixel) in to.chunks_exact_mut(size_of::<f32>()).zip(pixels) {
                    to.copy_from_slice(&pixel.to_le_bytes());
                }
            })
        }

        /// As [`Self::forward`] of images of bytes.
        ///
        /// # Errors
        /// As [`Self::forward`].
        pub(in crate::image) fn forward_bytes(
            &self,
            images: &[&[u8]],
            size: Size,
        ) -> Result<Vec<f32>> {
            let shape = Shape {
                images: images.len(),
                size,
                pixels: Pixels::Bytes,
            };
            let bytes = shape.image_len();
            self.run(shape, |to| {
                // One core copies slower than the device computes.
                to.par_chunks_exact_mut(bytes)
                    .zip(images)
                    .with_min_len(COPIED_AT_ONCE.div_ceil(bytes))
                    .for_each(|(to, image)| to.copy_from_slice(image));
            })
        }

        fn run(&self, shape: Shape, fill: impl FnOnce(&mut [u8])) -> Result<Vec<f32>> {
            if shape.images == 0 {
                return Ok(Vec::new());
            }
            (self.workspaces).with(|workspace| self.run_in(workspace, shape, fill))
        }

        fn run_in(
            &self,
            workspace: &mut Workspace,
            shape: Shape,
            fill: impl FnOnce(&mut [u8]),
        ) -> Result<Vec<f32>> {
            let Workspace { lane, plans } = workspace;
            let target = self.gpu.target();
            if plans.len() >= MOST_PLANS && !plans.contains_key(&shape) {
                plans.clear();
            }
            let plan = match plans.entry(shape) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(self.model.plan(&target, shape)?),
            };
            let pass = Pass {
                layout: plan.layout,
                input: plan.pixels,
                output: plan.logits,
                key: (shape.images <= MOST_RECORDED).then_some(shape),
            };
            let program = || Ok(plan.program.clone());
            let logits = lane.run(&self.gpu, &self.weights, &pass, fill, program)?;
            let element = target.element;
            let rows = logits.chunks_exact(self.model.padded_classes() * element.size());
            let classes = rows.flat_map(|row| {
                let row = row
                    .chunks_exact(element.size())
                    .map(move |value| match element {
                        Element::F16 => f16::from_le_bytes([value[0], value[1]]).to_f32(),
                        Element::F32 => {
                            f32::from_le_bytes([value[0], value[1], value[2], value[3]])
                        }
                    });
                row.take(self.model.classes())
            });
            Ok(classes.collect())
        }
    }
}
