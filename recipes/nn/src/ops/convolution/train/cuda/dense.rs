//! Sums over channels under windows: forward, and backward to what came in.

use candle_core::Result;

use super::{Layer, THREADS, share};
use crate::{
    cuda::{Draft, Element, Grid, Source, Span},
    ops::Onto,
};

/// Channels of groups that are computed together, at most.
const TOGETHER: usize = 64;
/// Bytes of a step of what is summed over, and those behind it in shared memory.
pub(super) const STEP: usize = 64;
pub(super) const BEHIND: usize = 16;
/// Steps whose operands are in shared memory.
pub(super) const STAGES: usize = 4;

/// Groups of a product: each is some of the layer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Groups {
    pub(super) count: usize,
    /// The layer's groups of one.
    pub(super) merged: usize,
    /// Channels of one.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Groups {
    pub(super) fn of(layer: &Layer) -> Self {
        let groups = layer.convolution.groups;
        let [inputs, outputs] = [layer.from, layer.to].map(|shape| shape.channels / groups);
        let fits = |merged: &usize| {
            groups.is_multiple_of(*merged) && merged * inputs.max(outputs) <= TOGETHER
        };
        let merged = (1..=groups.min(TOGETHER)).rev().find(fits).unwrap_or(1);
        Self {
            count: groups / merged,
            merged,
            inputs: merged * inputs,
            outputs: merged * outputs,
        }
    }
}

/// A group's channels as they are read: odd ones have zeros behind, as no copy is narrower than four bytes.
pub(super) fn wide(channels: usize) -> usize {
    match channels.is_multiple_of(2) {
        true => channels,
        false => channels.next_multiple_of(4),
    }
}

/// The widest copies that so many channels are a multiple of, in bytes.
pub(super) fn copies(channels: usize, element: Element) -> usize {
    let bytes = channels * element.size();
    [16, 8]
        .into_iter()
        .find(|copy| bytes.is_multiple_of(*copy))
        .unwrap_or(4)
}

/// Images whose channels fill copies.
#[derive(Clone, Copy)]
pub(super) struct Filled {
    pub(super) span: Span,
    /// Channels of a group.
    pub(super) own: usize,
    /// Values from pixel to pixel.
    pub(super) pitch: usize,
    /// The widest copies of them, in bytes.
    pub(super) copies: usize,
}

/// Bytes of images `[pixels, groups, channels]` that have to be filled, if so.
pub(super) fn filled_bytes(
    pixels: usize,
    groups: usize,
    channels: usize,
    element: Element,
) -> usize {
    match wide(channels) {
        own if own == channels => 0,
        own => pixels * groups * own * element.size(),
    }
}

/// Fills channels, where that is needed.
pub(super) fn fill(
    draft: &mut Draft,
    from: Span,
    (groups, channels): (usize, usize),
    to: Span,
) -> Result<Filled> {
    let own = wide(channels);
    let element = draft.target.element;
    let filled = |span| Filled {
        span,
        own,
        pitch: groups * own,
        copies: copies(own, element),
    };
    if own == channels {
        return Ok(filled(from));
    }
    let border = Border {
        from: [1, 1, channels],
        to: [1, 1, own],
        before: [0, 0],
    };
    border.fill(draft, from, to)?;
    Ok(filled(to))
}

/// Images `[height, width, channels]` within larger ones, with zeros around and behind.
pub(super) struct Border {
    pub(super) from: [usize; 3],
    pub(super) to: [usize; 3],
    /// Lines and pixels before each.
    pub(super) before: [usize; 2],
}

impl Border {
    pub(super) fn fill(&self, draft: &mut Draft, from: Span, to: Span) -> Result<()> {
        let count = to.bytes / draft.target.element.size();
        let [height, width, own] = self.from;
        let [wide_height, wide_width, wide] = self.to;
        let [top, left] = self.before;
        let numbers = [
            count,
            height,
            width,
            own,
            wide_height,
            wide_width,
            wide,
            top,
            left,
        ];
        let arguments = share::arguments([to.write(), from.read()], numbers);
        let kernel = (Source::TrainConvLayout, "train_conv_fill");
        // A thread has four values.
        let grid = Grid::row(count.div_ceil(4 * THREADS), THREADS as u32);
        // SAFETY: the arguments are those that the head of `train_conv_layout.cu` lists, of the shapes that it states.
        unsafe { draft.launch(kernel, grid, arguments) }
    }
}

/// Weights `[outputs, taps, inputs]` by lines of the kernel, `[outputs, lines, line]`, where a tap has `wide` values.
pub(super) fn lay_lines(
    draft: &mut Draft,
    [weight, to]: [Span; 2],
    (kernel, inputs): ([usize; 2], usize),
    ([lines, line], wide): ([usize; 2], usize),
) -> Result<()> {
    let count = to.bytes / draft.target.element.size();
    let numbers = [count, lines, line, wide, kernel[0], kernel[1], inputs];
    let arguments = share::arguments([to.write(), weight.read()], numbers);
    let kernel = (Source::TrainConvLayout, "train_conv_lay_lines");
    let grid = Grid::row(count.div_ceil(THREADS), THREADS as u32);
    // SAFETY: as in `Border::fill`.
    unsafe { draft.launch(kernel, grid, arguments) }
}

/// Weights with the inputs of a product's group for each output, `width` for each tap.
pub(super) fn lay(
    layer: &Layer,
    draft: &mut Draft,
    weight: Span,
    (to, width): (Span, usize),
) -> Result<()> {
    let groups = Groups::of(layer);
    let [down, across] = layer.convolution.window.kernel;
    let count = layer.to.channels * down * across * width;
    let numbers = [
        count,
        down * across,
        width,
        groups.inputs / groups.merged,
        groups.outputs / groups.merged,
        groups.merged,
    ];
    let arguments = share::arguments([to.write(), weight.read()], numbers);
    let kernel = (Source::TrainConvLayout, "train_conv_lay");
    let grid = Grid::row(count.div_ceil(THREADS), THREADS as u32);
    // SAFETY: as in `Border::fill`.
    unsafe { draft.launch(kernel, grid, arguments) }
}

/// Weights with the outputs of a product's group for each input, `width` for each tap.
pub(super) fn turn(
    layer: &Layer,
    draft: &mut Draft,
    weight: Span,
    (to, width): (Span, usize),
) -> Result<()> {
    let groups = Groups::of(layer);
    let window = layer.convolution.window;
    let [down, across] = window.kernel;
    let rows = layer.from.channels;
    let numbers = [
        rows,
        width,
        groups.inputs / groups.merged,
        groups.outputs / groups.merged,
        groups.merged,
        down,
        across,
        window.stride[0],
        window.stride[1],
        window.padding[0],
        window.padding[1],
    ];
    let arguments = share::arguments([to.write(), weight.read()], numbers);
    let kernel = (Source::TrainConvLayout, "train_conv_turn");
    let grid = Grid {
        blocks: [rows.div_ceil(64) * width.div_ceil(64), down * across, 1],
        threads: THREADS as u32,
        shared: 0,
    };
    // SAFETY: as in `Border::fill`.
    unsafe { draft.launch(kernel, grid, arguments) }
}

pub(super) fn forward(
    layer: &Layer,
    draft: &mut Draft,
    (weight, bias): (Span, Option<Span>),
    [x, y]: [Span; 2],
) -> Result<()> {
    let groups = Groups::of(layer);
    let element = draft.target.element;
    let own = wide(groups.inputs);
    let lays = groups.merged > 1 || own != groups.inputs || !weight.place.is_aligned();
    let taps = layer.convolution.window.kernel.iter().product::<usize>();
    let bytes = layer.to.channels * taps * own * element.size();
    let pixels = layer.images * layer.from.pixels();
    let [laid, filled] = draft.scratch([
        if lays { bytes } else { 0 },
        filled_bytes(pixels, groups.count, groups.inputs, element),
    ]);
    let x = fill(draft, x, (groups.count, groups.inputs), filled)?;
    let weight = if lays {
        lay(layer, draft, weight, (laid, own))?;
        laid
    } else {
        weight
    };
    gather(layer, draft, x, (weight, bias), (y, None))
}

pub(super) fn backward_input(
    layer: &Layer,
    draft: &mut Draft,
    weight: Span,
    dy: Span,
    (dx, onto): (Span, Onto),
) -> Result<()> {
    let groups = Groups::of(layer);
    let element = draft.target.element;
    let own = wide(groups.outputs);
    let taps = layer.convolution.window.kernel.iter().product::<usize>();
    let pixels = layer.images * layer.to.pixels();
    let [laid, filled] = draft.scratch([
        layer.from.channels * taps * own * element.size(),
        filled_bytes(pixels, groups.count, groups.outputs, element),
    ]);
    let dy = fill(draft, dy, (groups.count, groups.outputs), filled)?;
    turn(layer, draft, weight, (laid, own))?;
    gather(layer, draft, dy, (laid, None), (dx, Some(onto)))
}

/// The kernel of `train_conv.cu`: forward, or backward onto something.
pub(super) fn gather(
    layer: &Layer,
    draft: &mut Draft,
    from: Filled,
    (weight, bias): (Span, Option<Span>),
    (to, onto): (Span, Option<Onto>),
) -> Result<()> {
    let groups = Groups::of(layer);
    let window = layer.convolution.window;
    let (input, output, outputs, phases) = match onto {
        None => (layer.from, layer.to, groups.outputs, [1, 1]),
        Some(_) => (layer.to, layer.from, groups.inputs, window.stride),
    };
    let rows = layer.images * output.height.div_ceil(phases[0]) * output.width.div_ceil(phases[1]);
    let z = phases[0] * phases[1] * groups.count;
    let copies = from.copies;
    let blocks = |[m, n]: [usize; 2]| [rows.div_ceil(m) * outputs.div_ceil(n), 1, z];
    let fits = |tile: [usize; 2]| blocks(tile)[0] * z >= draft.target.processors;
    // Columns behind the last one cost as much as others.
    let narrow = outputs.div_ceil(64) % 2 == 1 && outputs <= 5 * 64;
    let [m, n] = match copies {
        16 if !narrow && fits([128, 128]) => [128, 128],
        16 if !fits([128, 64]) => [64, 64],
        _ => [128, 64],
    };
    let kernel = format!("train_conv_{copies}_{m}x{n}");
    let grid = Grid {
        blocks: blocks([m, n]),
        threads: if m == 64 { 128 } else { 256 },
        shared: (STAGES * (m + n) * (STEP + BEHIND)) as u32,
    };
    let numbers = [
        layer.images,
        input.height,
        input.width,
        from.pitch,
        from.own,
        output.height,
        output.width,
        output.channels,
        outputs,
        groups.count,
        window.kernel[0],
        window.kernel[1],
        window.stride[0],
        window.stride[1],
        window.padding[0],
        window.padding[1],
        usize::from(onto.is_some()),
        usize::from(onto == Some(Onto::Add)),
    ];
    let spans = [to.write(), from.span.read(), weight.read(), bias.into()];
    let arguments = share::arguments(spans, numbers);
    // SAFETY: the arguments are those that the head of `train_conv.cu` lists, of the shapes that it states.
    unsafe { draft.launch((Source::TrainConv, &kernel), grid, arguments) }
}
