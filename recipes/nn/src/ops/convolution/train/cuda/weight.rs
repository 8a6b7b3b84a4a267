//! The gradient of a weight: sums over all pixels, which are shared out.

use candle_core::Result;

use super::{
    Layer,
    dense::{BEHIND, Filled, Groups, STAGES, STEP, copies, fill, filled_bytes, wide},
    share,
};
use crate::cuda::{Argument, Draft, Grid, Source, Span};

pub(super) fn backward_weight(
    layer: &Layer,
    draft: &mut Draft,
    [x, dy]: [Span; 2],
    dweight: Span,
) -> Result<()> {
    let Groups {
        count,
        merged,
        inputs,
        outputs,
    } = Groups::of(layer);
    let element = draft.target.element;
    let [from, to] = [layer.from, layer.to].map(|shape| layer.images * shape.pixels());
    let copies = [inputs, outputs].map(|channels| copies(wide(channels), element));
    let sums = Sums::of(layer, draft, [inputs, outputs].map(wide), copies);
    let [filled, filled_dy, parts] = draft.scratch([
        filled_bytes(from, count, inputs, element),
        filled_bytes(to, count, outputs, element),
        sums.bytes(dweight),
    ]);
    let x = fill(draft, x, (count, inputs), filled)?;
    let dy = fill(draft, dy, (count, outputs), filled_dy)?;
    let columns = [merged, inputs / merged, outputs / merged, 1, 1];
    sums.launch(layer, draft, [x, dy], columns, (parts, dweight))
}

/// How the kernel of `train_conv_weight.cu` computes a layer, with the channels of a group and the widest copies as it reads
/// them.
pub(super) struct Sums {
    copies: usize,
    tile: [usize; 2],
    tiles: usize,
    /// Pixels of a share, and how many there are.
    share: usize,
    shares: usize,
}

impl Sums {
    pub(super) fn of(
        layer: &Layer,
        draft: &Draft,
        [inputs, outputs]: [usize; 2],
        [copies, others]: [usize; 2],
    ) -> Self {
        let target = draft.target;
        let taps = layer.convolution.window.kernel.iter().product::<usize>();
        let copies = copies.min(others);
        let columns = taps * inputs;
        let [m, n] = match copies {
            16 if outputs > 64 && columns > 64 => [128, 128],
            16 if columns > 64 => [64, 128],
            _ => [64, 64],
        };
        let tiles = outputs.div_ceil(m) * columns.div_ceil(n);
        let groups = Groups::of(layer).count;
        let pixels = layer.images * layer.to.pixels();
        let at_once = 2 * target.processors;
        let shares = shares(pixels, tiles * groups, layer.weights(), at_once);
        let (share, shares) = share::even(pixels, shares, STEP / target.element.size());
        Self {
            copies,
            tile: [m, n],
            tiles,
            share,
            shares,
        }
    }

    /// Of the memory that parts of a gradient need.
    pub(super) fn bytes(&self, dweight: Span) -> usize {
        match self.shares {
            1 => 0,
            shares => shares * dweight.bytes,
        }
    }

    /// Adds it, and what sums up its parts. `columns`: the layer's groups in one of the product's, the channels in and out of one, and of how many values of x, side
    /// by side, how many are channels.
    pub(super) fn launch(
        &self,
        layer: &Layer,
        draft: &mut Draft,
        [x, dy]: [Filled; 2],
        columns: [usize; 5],
        (parts, dweight): (Span, Span),
    ) -> Result<()> {
        let window = layer.convolution.window;
        let [m, n] = self.tile;
        let size = draft.target.element.size();
        let grid = Grid {
            blocks: [self.tiles, self.shares, Groups::of(layer).count],
            threads: if self.tile == [64, 64] { 128 } else { 256 },
            shared: (STAGES * (STEP / size) * ((m + n) * size + 2 * BEHIND)) as u32,
        };
        let numbers = [
            layer.images,
            layer.from.height,
            layer.from.width,
            x.pitch,
            x.own,
            layer.to.height,
            layer.to.width,
            dy.pitch,
            dy.own,
            window.kernel[0],
            window.kernel[1],
            window.stride[0],
            window.stride[1],
            window.padding[0],
            window.padding[1],
            self.share,
        ];
        let parts = if self.shares == 1 { dweight } else { parts };
        let kernel = format!("train_conv_weight_{}_{m}x{n}", self.copies);
        let numbers = numbers.into_iter().chain(columns).map(Argument::from);
        let spans = [parts.write(), x.span.read(), dy.span.read()];
        let arguments = spans.into_iter().chain(numbers);
        // SAFETY: the arguments are those that the head of `train_conv_weight.cu` lists, of the shapes that it states.
        unsafe { draft.launch((Source::TrainConvWeight, &kernel), grid, arguments)? };
        share::sum(draft, parts, dweight, self.shares)
    }
}

/// Among how many the pixels of so many tiles are shared out, where so many blocks run at once.
pub(super) fn shares(pixels: usize, tiles: usize, weights: usize, at_once: usize) -> usize {
    /// What a block takes beside its pixels, and how many weights are written and read again in the time of a pixel: of an
    /// H200, roughly.
    const BESIDE: usize = 64;
    const WEIGHTS: usize = 10_000;
    let time = |shares: &usize| {
        let turns = (tiles * shares).div_ceil(at_once);
        let parts = if *shares > 1 { shares * weights } else { 0 };
        turns * (pixels.div_ceil(*shares) + BESIDE) + parts / WEIGHTS
    };
    let most = (4 * at_once / tiles.max(1)).min(pixels / 128).max(1);
    (1..=most).min_by_key(time).unwrap_or(1)
}
