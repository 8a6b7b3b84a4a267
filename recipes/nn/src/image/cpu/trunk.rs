//! Blocks one after the other, and how many images go through them at a time.

use candle_core::Result;

use super::{
    Size,
    block::{self, Block},
};
use crate::{aligned::Aligned, simd::Level};

/// Bytes between expansion and projection from which on a block is large. Such images evict each other from the caches, so
/// they go through the network one for each thread; where they are smaller, weights are most of what is read, and many
/// images share them.
const LARGE: usize = 1 << 20;
/// Bytes that the images which share weights have there together, at most.
const TOGETHER: usize = 8 << 20;

/// How images go through the blocks.
pub(super) struct Plan<'a> {
    /// Up to the last large one.
    pub(super) large: Blocks<'a>,
    pub(super) small: Blocks<'a>,
    /// Images that go through the large blocks at a time.
    pub(super) at_a_time: usize,
    /// Images that go through the small ones: a multiple of the other.
    pub(super) together: usize,
}

impl<'a> Plan<'a> {
    pub(super) fn new(blocks: &'a [Block], mut size: Size, threads: usize) -> Result<Self> {
        let (mut large, mut most) = (0, 1);
        for (index, block) in blocks.iter().enumerate() {
            size = block.output(size)?;
            let bytes = size.pixels() * block.wide() * size_of::<f32>();
            most = most.max(bytes);
            if bytes >= LARGE {
                (large, most) = (index + 1, 1);
            }
        }
        let (large, small) = blocks.split_at(large);
        Ok(Self {
            large: Blocks(large),
            small: Blocks(small),
            at_a_time: threads,
            together: (TOGETHER / most / threads).clamp(1, 64) * threads,
        })
    }
}

/// What blocks compute in.
#[derive(Default)]
pub(super) struct Workspace {
    /// What they give, in turns.
    maps: [Aligned; 2],
    block: block::Workspace,
}

pub(super) struct Blocks<'a>(&'a [Block]);

impl Blocks<'_> {
    /// The size of what they give, and how many values an image of it has.
    pub(super) fn output(&self, mut size: Size, mut channels: usize) -> Result<(Size, usize)> {
        for block in self.0 {
            (size, channels) = (block.output(size)?, block.outputs());
        }
        Ok((size, size.pixels() * channels))
    }

    /// `[images, height, width, inputs]` -> `[images, out height, out width, outputs]`.
    pub(super) fn forward(
        &self,
        level: Level,
        x: &[f32],
        (images, mut size): (usize, Size),
        workspace: &mut Workspace,
        out: &mut [f32],
    ) -> Result<()> {
        let Some((last, others)) = self.0.split_last() else {
            out.copy_from_slice(x);
            return Ok(());
        };
        let [mut from, mut to] = workspace.maps.each_mut();
        let mut len = x.len();
        for (index, block) in others.iter().enumerate() {
            let input = if index == 0 {
                x
            } else {
                &from.as_slice()[..len]
            };
            let input_size = size;
            size = block.output(size)?;
            len = images * size.pixels() * block.outputs();
            let output = to.at_least(len);
            block.forward(
                level,
                input,
                (images, input_size),
                &mut workspace.block,
                output,
            )?;
            (from, to) = (to, from);
        }
        let input = if others.is_empty() {
            x
        } else {
            &from.as_slice()[..len]
        };
        last.forward(level, input, (images, size), &mut workspace.block, out)
    }
}
