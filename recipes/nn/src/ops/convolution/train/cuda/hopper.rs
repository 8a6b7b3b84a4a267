//! Dense layers on Hopper. Forward, and backward where the stride is one, which is a convolution with the turned weights, by the
//! kernels that inference has there; the weight's gradient by one that reads both of its operands as they lie.

use candle_core::Result;

use super::{
    Layer, THREADS,
    dense::{Border, Groups, lay, lay_lines, turn},
    share,
    weight::shares,
};
use crate::{
    activation::Activation,
    cuda::{Argument, Draft, Element, Grid, Map, Patches, Source, Span, Target},
    graph::{Shape, Window},
    ops::{
        Onto,
        convolution::cuda::{Convolution, Images, Pass, STEP, VECTOR, lines},
    },
};

/// Shared memory of a block beside that of operands.
const OVERHEAD: usize = 1280;

/// A convolution that those kernels compute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hopper<'a> {
    layer: &'a Layer,
    window: Window,
    from: Shape,
    to: Shape,
    /// Steps for each tap.
    chunks: usize,
}

impl<'a> Hopper<'a> {
    /// Of what a layer gives.
    pub(super) fn forward(layer: &'a Layer, target: Target) -> Option<Self> {
        Self::of(
            layer,
            target,
            layer.convolution.window,
            [layer.from, layer.to],
        )
    }

    /// Of the gradient of what it is given.
    pub(super) fn backward(layer: &'a Layer, target: Target) -> Option<Self> {
        let mut window = layer.convolution.window;
        for (padding, kernel) in window.padding.iter_mut().zip(window.kernel) {
            *padding = (kernel - 1).checked_sub(*padding)?;
        }
        if window.stride != [1, 1] {
            return None;
        }
        Self::of(layer, target, window, [layer.to, layer.from])
    }

    /// Of the gradient of its weight.
    pub(super) fn weight(layer: &'a Layer, target: Target) -> Option<Self> {
        let fits = layer.to.channels >= STEP / 2;
        Self::forward(layer, target).filter(|_| fits)
    }

    fn of(
        layer: &'a Layer,
        target: Target,
        window: Window,
        [from, to]: [Shape; 2],
    ) -> Option<Self> {
        let groups = Groups::of(layer);
        let hopper = target.element == Element::F16 && target.capability == (9, 0);
        let [down, across] = window.stride;
        // What the copy engine can count.
        let fits_engine =
            down == across && down <= 8 && window.kernel.iter().all(|side| *side <= 128);
        let vectors = [from, to]
            .iter()
            .all(|shape| shape.channels.is_multiple_of(VECTOR));
        // Of fewer channels, most of a step would be zeros.
        let fits_steps = match layer.convolution.groups {
            1 => from.channels >= STEP / 2,
            _ => [groups.inputs, groups.outputs] == [STEP; 2],
        };
        (hopper && fits_engine && vectors && fits_steps).then_some(Self {
            layer,
            window,
            from,
            to,
            chunks: match layer.convolution.groups {
                1 => from.channels.div_ceil(STEP),
                _ => 1,
            },
        })
    }

    /// Bytes of a weight with whole steps for each tap.
    fn laid_bytes(&self) -> usize {
        let taps = self.window.kernel[0] * self.window.kernel[1];
        self.to.channels * taps * self.chunks * STEP * Element::F16.size()
    }

    pub(super) fn launch_forward(
        &self,
        draft: &mut Draft,
        (weight, bias): (Span, Option<Span>),
        [x, y]: [Span; 2],
    ) -> Result<()> {
        let width = self.chunks * STEP;
        let lays = self.layer.convolution.groups > 1
            || width != self.from.channels
            || !weight.place.is_aligned();
        let floats = bias.map_or(0, |_| self.to.channels * Element::F32.size());
        let [laid, widened] = draft.scratch([if lays { self.laid_bytes() } else { 0 }, floats]);
        let weight = if lays {
            lay(self.layer, draft, weight, (laid, width))?;
            laid
        } else {
            weight
        };
        let bias = match bias {
            None => None,
            Some(bias) => {
                widen(draft, bias, widened)?;
                Some(widened)
            }
        };
        self.push(draft, (weight, bias), x, (y, Onto::Write))
    }

    pub(super) fn launch_backward(
        &self,
        draft: &mut Draft,
        weight: Span,
        dy: Span,
        dx: (Span, Onto),
    ) -> Result<()> {
        let [turned] = draft.scratch([self.laid_bytes()]);
        turn(self.layer, draft, weight, (turned, self.chunks * STEP))?;
        self.push(draft, (turned, None), dy, dx)
    }

    /// The kernel of `train_conv_weight_sm90.cu`.
    pub(super) fn launch_weight(
        &self,
        draft: &mut Draft,
        [x, dy]: [Span; 2],
        dweight: Span,
    ) -> Result<()> {
        let groups = Groups::of(self.layer);
        let taps = self.window.kernel[0] * self.window.kernel[1];
        let panels = taps * self.chunks;
        let [m, n, blocks, stages] = match (groups.outputs, panels) {
            (..=STEP, _) => [64, 256, 1, 5],
            (_, ..=2) => [128, 128, 2, 3],
            _ => [128, 256, 1, 4],
        };
        let tiles = groups.outputs.div_ceil(m) * (panels * STEP).div_ceil(n);
        let pixels = self.layer.images * self.to.pixels();
        let at_once = blocks * draft.target.processors;
        let shares = shares(pixels, tiles * groups.count, self.layer.weights(), at_once);
        let (share, shares) = share::even(pixels, shares, STEP);
        let parts = share::parts(draft, dweight, shares);
        let box_of = [STEP as u32; 2];
        let patches = Patches {
            span: x,
            images: self.layer.images,
            size: [self.from.height, self.from.width],
            channels: self.from.channels,
            pitch: self.from.channels,
            window: self.window,
            tile: box_of,
        };
        let changes = Map::new(dy, [pixels, self.to.channels], box_of);
        let numbers = [
            self.to.height,
            self.to.width,
            self.window.stride[0],
            self.window.padding[0],
            self.window.padding[1],
            self.window.kernel[1],
            taps,
            self.chunks,
            pixels.div_ceil(STEP),
            share / STEP,
            groups.outputs,
            groups.merged,
            groups.inputs / groups.merged,
            groups.outputs / groups.merged,
            stages,
        ];
        let grid = Grid {
            blocks: [tiles, shares, groups.count],
            threads: 288,
            shared: (stages * (m + n) * STEP * Element::F16.size() + OVERHEAD) as u32,
        };
        let operands = [
            Argument::ReadPatches(patches),
            Argument::ReadMap(changes),
            parts.write(),
        ];
        let kernel = format!("train_conv_weight_sm90_{m}x{n}");
        let arguments = share::arguments(operands, numbers);
        // SAFETY: the arguments are those that the head of `train_conv_weight_sm90.cu` lists, of the shapes that it states.
        unsafe { draft.launch((Source::TrainConvWeightSm90, &kernel), grid, arguments)? };
        share::sum(draft, parts, dweight, shares)
    }

    fn push(
        &self,
        draft: &mut Draft,
        (weight, bias): (Span, Option<Span>),
        from: Span,
        (to, onto): (Span, Onto),
    ) -> Result<()> {
        let images = |span: Span, shape: Shape| Images {
            span,
            count: self.layer.images,
            size: [shape.height, shape.width],
            channels: shape.channels,
            pitch: shape.channels,
        };
        let output = images(to, self.to);
        let groups = self.layer.convolution.groups;
        let layer = Convolution::laid(
            (weight, bias),
            self.window,
            [groups, self.to.channels],
            self.chunks,
        );
        let pass = Pass {
            layer: &layer,
            input: images(from, self.from),
            output,
            residual: (onto == Onto::Add).then_some(output),
            after: Activation::None,
        };
        let target = draft.target;
        pass.push(&target, draft.program())
    }
}

/// A layer of few channels, such as a network's first, forward: by lines of the kernel, from images that have their padding in
/// memory. `None`: it cannot be computed so, and nothing was launched.
pub(super) fn launch_first(
    layer: &Layer,
    draft: &mut Draft,
    (weight, bias): (Span, Option<Span>),
    [x, y]: [Span; 2],
) -> Option<Result<()>> {
    let target = draft.target;
    let (inputs, outputs) = (layer.from.channels, layer.to.channels);
    let hopper = target.element == Element::F16 && target.capability == (9, 0);
    if !hopper || !outputs.is_multiple_of(VECTOR) {
        return None;
    }
    let shape = lines(&layer.convolution, inputs)?;
    let [size, out] = [layer.from, layer.to].map(|shape| [shape.height, shape.width]);
    let made = |spans| Convolution::laid_by_lines(spans, &layer.convolution, inputs);
    let border = made((weight, None))?.border(size, out)?;
    let floats = bias.map_or(0, |_| outputs * Element::F32.size());
    let [height, width] = border.size;
    let values = layer.images * height * width * border.channels;
    let [laid, widened, filled] = draft.scratch([
        outputs * shape[0] * shape[1] * Element::F16.size(),
        floats,
        values * Element::F16.size(),
    ]);
    let pass = Pass {
        layer: &made((laid, bias.map(|_| widened)))?,
        input: Images {
            span: filled,
            count: layer.images,
            size: border.size,
            channels: border.channels,
            pitch: border.channels,
        },
        output: Images {
            span: y,
            count: layer.images,
            size: out,
            channels: outputs,
            pitch: outputs,
        },
        residual: None,
        after: Activation::None,
    };
    let mut launch = || {
        let around = Border {
            from: [size[0], size[1], inputs],
            to: [height, width, border.channels],
            before: border.before,
        };
        around.fill(draft, x, filled)?;
        let own = (layer.convolution.window.kernel, inputs);
        lay_lines(draft, [weight, laid], own, (shape, border.channels))?;
        if let Some(bias) = bias {
            widen(draft, bias, widened)?;
        }
        pass.push(&target, draft.program())
    };
    Some(launch())
}

/// A bias in f32.
fn widen(draft: &mut Draft, bias: Span, to: Span) -> Result<()> {
    let count = to.bytes / Element::F32.size();
    let kernel = (Source::TrainConvLayout, "train_conv_widen");
    let grid = Grid::row(count.div_ceil(THREADS), THREADS as u32);
    let arguments = share::arguments([to.write(), bias.read()], [count]);
    // SAFETY: the arguments are those that the head of `train_conv_layout.cu` lists, of the shapes that it states.
    unsafe { draft.launch(kernel, grid, arguments) }
}
