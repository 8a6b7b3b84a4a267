//! The network on the CPU: f32 images, channels last, `[n, h, w, c]`.
//!
//! A 1x1 convolution is then one matrix product, and a depthwise one works on vectors of neighbouring channels. On a CPU
//! such a network can spend as long moving images as computing. So what is between an expansion and the sums of the
//! depthwise convolution after it stays in the nearest caches ([`fused`]), all else is in a workspace that is kept from
//! pass to pass, and each step does bias, activation and what else follows while its results are at hand.
//!
//! Threads are those of rayon's global pool.

mod block;
pub(crate) mod dense;
pub(crate) mod depthwise;
pub(crate) mod fused;
mod means;
mod stem;
#[cfg(test)]
mod tests;
mod trunk;

use candle_core::{Result, bail};
use rayon::prelude::*;

use self::{block::Block, dense::Dense, stem::Stem};
use super::{Activation, Bottleneck, Convolution, Layers, Padding, padding::Size};
use crate::{
    aligned::Aligned,
    simd::{Level, Precision},
    workspace::Workspaces,
};

#[derive(Debug)]
pub(super) struct Network {
    level: Level,
    stem: Stem,
    blocks: Vec<Block>,
    head: Dense,
    classifier: Dense,
    workspaces: Workspaces<Workspace>,
}

/// What a pass computes in.
#[derive(Default)]
struct Workspace {
    pixels: Aligned,
    stem: Aligned,
    /// What the large blocks give.
    middle: Aligned,
    /// What all blocks give.
    end: Aligned,
    head: Aligned,
    means: Aligned,
    blocks: trunk::Workspace,
}

/// Some of a batch's images.
#[derive(Clone, Copy)]
struct Images<'a> {
    first: usize,
    count: usize,
    size: Size,
    /// Writes the pixels of an image of the batch.
    fill: &'a (dyn Fn(usize, &mut [f32]) + Sync),
}

impl Images<'_> {
    /// `[count, height, width, 3]`.
    fn pixels<'m>(&self, memory: &'m mut Aligned) -> &'m [f32] {
        let len = self.size.pixels() * stem::COLOURS;
        let pixels = memory.at_least(self.count * len);
        pixels
            .par_chunks_exact_mut(len.max(1))
            .enumerate()
            .for_each(|(i, pixels)| (self.fill)(self.first + i, pixels));
        pixels
    }
}

impl Network {
    /// Only where rounding changes hardly any class are products in `precision`: expansions and the head.
    pub(super) fn new(layers: &Layers, precision: Precision) -> Result<Self> {
        let activation = layers.activation;
        let stem = Stem::new(&layers.stem, layers.stem_padding, activation)?;
        let mut blocks: Vec<Block> = Vec::new();
        let mut channels = stem.channels();
        for layer in &layers.blocks {
            let block = Block::new(layer, activation, precision)?;
            if block.inputs() != channels {
                bail!(
                    "a block takes {} channels, but the layer before it gives {channels}",
                    block.inputs()
                )
            }
            channels = block.outputs();
            blocks.push(block);
        }
        let head = Dense::new(&layers.head, Some(channels), activation, precision)?;
        let inputs = Some(head.outputs());
        let classifier = Dense::new(&layers.classifier, inputs, Activation::None, Precision::F32)?;
        Ok(Self {
            level: Level::detect(),
            stem,
            blocks,
            head,
            classifier,
            workspaces: Workspaces::default(),
        })
    }

    pub(super) fn classes(&self) -> usize {
        self.classifier.outputs()
    }

    /// `fill(i, pixels)` writes those of image `i`, `[height, width, 3]`; gives logits `[images, classes]`.
    pub(super) fn forward(
        &self,
        images: usize,
        size: Size,
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<Vec<f32>> {
        let classes = self.classes();
        let mut logits = vec![0.0; images * classes];
        let stem_size = self.stem.output(size)?;
        let plan = trunk::Plan::new(&self.blocks, stem_size, rayon::current_num_threads())?;
        let parts = logits.chunks_mut(plan.together * classes);
        for (part, logits) in parts.enumerate() {
            let images = Images {
                first: part * plan.together,
                count: logits.len() / classes,
                size,
                fill,
            };
            self.workspaces
                .with(|workspace| self.run(&plan, &images, workspace, logits))?;
        }
        Ok(logits)
    }

    /// Of so many images as go through the smaller blocks together.
    fn run(
        &self,
        plan: &trunk::Plan<'_>,
        images: &Images<'_>,
        workspace: &mut Workspace,
        logits: &mut [f32],
    ) -> Result<()> {
        let level = self.level;
        let Images { count, size, .. } = *images;
        let stem_size = self.stem.output(size)?;
        let (middle_size, middle_len) = plan.large.output(stem_size, self.stem.channels())?;
        let middle = workspace.middle.at_least(count * middle_len);
        let parts = middle.chunks_mut(plan.at_a_time * middle_len);
        for (part, x) in parts.enumerate() {
            let part = Images {
                first: images.first + part * plan.at_a_time,
                count: x.len() / middle_len,
                ..*images
            };
            let (images, pixels) = (part.count, part.pixels(&mut workspace.pixels));
            let stem_len = images * stem_size.pixels() * self.stem.channels();
            let stem = workspace.stem.at_least(stem_len);
            self.stem.forward(level, pixels, (images, size), stem)?;
            plan.large
                .forward(level, stem, (images, stem_size), &mut workspace.blocks, x)?;
        }
        let channels = middle_len / middle_size.pixels();
        let (end_size, end_len) = plan.small.output(middle_size, channels)?;
        let images = images.count;
        let end = workspace.end.at_least(images * end_len);
        plan.small.forward(
            level,
            middle,
            (images, middle_size),
            &mut workspace.blocks,
            end,
        )?;

        let (rows, outputs) = (images * end_size.pixels(), self.head.outputs());
        let head = workspace.head.at_least(rows * outputs);
        self.head.product(end, rows).compute_into(level, head);
        let means = workspace.means.at_least(images * outputs);
        means::of_rows(level, head, outputs, end_size.pixels(), means);
        self.classifier
            .product(means, images)
            .compute_into(level, logits);
        Ok(())
    }
}

/// What runs a case once.
type Timed = Box<dyn FnMut() -> Result<()>>;

/// A stem over `[images, height, width, 3]`, for timing.
pub(super) fn timed_stem(
    layer: &Convolution,
    x: Vec<f32>,
    images: usize,
    size: Size,
) -> Result<Timed> {
    let stem = Stem::new(layer, Padding::Symmetric(1), Activation::Silu)?;
    let mut out = vec![0.0; images * stem.output(size)?.pixels() * stem.channels()];
    let level = Level::detect();
    Ok(Box::new(move || {
        stem.forward(level, &x, (images, size), &mut out)
    }))
}

/// A block over `[images, height, width, channels]`, for timing.
pub(super) fn timed_block(
    layer: &Bottleneck,
    x: Vec<f32>,
    images: usize,
    size: Size,
) -> Result<Timed> {
    let block = Block::new(layer, Activation::Silu, Precision::F32)?;
    let mut out = vec![0.0; images * block.output(size)?.pixels() * block.outputs()];
    let (level, mut workspace) = (Level::detect(), block::Workspace::default());
    Ok(Box::new(move || {
        block.forward(level, &x, (images, size), &mut workspace, &mut out)
    }))
}
