//! Convolution on a CUDA device: which kernels compute it, and how they are launched.

mod laid;
mod lines;
mod rows;
mod tiles;

use candle_core::{Result, Tensor};

pub(crate) use self::{laid::lines, rows::Rows};
use self::{lines::Lines, tiles::Tile};
use crate::{
    activation::Activation,
    cuda::{Argument, Element, Grid, Map, Patches, Program, Source, Span, Target, Weights},
    graph::{self, Window},
    host,
};

/// Filters of which every image has a multiple, the last of them zeros.
pub(crate) const VECTOR: usize = 8;
/// Channels of a step of `conv_sm90.cu`.
pub(crate) const STEP: usize = 64;

/// Some channels of images on the device, `[images, height, width, pitch]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Images {
    /// From the first channel of the first pixel on.
    pub(crate) span: Span,
    pub(crate) count: usize,
    /// Pixels, `[down, across]`.
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// Values from one pixel to the next.
    pub(crate) pitch: usize,
}

impl Images {
    /// Of all images together.
    pub(crate) fn pixels(&self) -> usize {
        self.count * self.size[0] * self.size[1]
    }
}

/// What is done to each value before it is convolved.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    /// A factor for each channel, and a term.
    pub(crate) factors: [Vec<f32>; 2],
    pub(crate) activation: Activation,
}

/// A convolution's numbers on the device.
#[derive(Debug)]
pub(crate) struct Convolution {
    weight: Span,
    /// f32, of all filters and those that fill the last vector. Only `conv_sm90.cu` does without.
    bias: Option<Span>,
    /// Factors and terms, as the kernel reads them.
    before: Option<([Span; 2], Activation)>,
    kind: Kind,
    window: Window,
    groups: usize,
    filters: usize,
    activation: Activation,
}

/// Which kernels it is laid out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `conv.cu`'s.
    Any,
    /// `conv_sm90.cu`'s: so many steps for each place of the kernel.
    Sm90 { chunks: usize },
    /// The same source's for images of few channels.
    Lines(Lines),
}

/// What a layer's kernels depend on beside its shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around<'a> {
    /// What is done to the images first.
    pub(crate) before: Option<&'a Before>,
    /// What follows the sums with the weights.
    pub(crate) activation: Activation,
    /// Whether something is added then.
    pub(crate) sums: bool,
    /// Whether it alone reads what comes in, so that this may lie as it likes.
    pub(crate) first: bool,
}

/// A convolution of images: `after(activation(w * before(input) + bias) + residual)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) layer: &'a Convolution,
    pub(crate) input: Images,
    pub(crate) output: Images,
    pub(crate) residual: Option<Images>,
    pub(crate) after: Activation,
}

impl Convolution {
    /// From a weight `[filters, channels / groups, ..]`, whose channels are in the order of the images', and a bias.
    ///
    /// # Errors
    /// They cannot be had on the host.
    pub(crate) fn new(
        (weights, target): (&mut Weights, &Target),
        layer: &graph::Convolution,
        [weight, bias]: [&Tensor; 2],
        around: Around<'_>,
    ) -> Result<Self> {
        let (filters, channels, ..) = weight.dims4()?;
        let window = layer.window;
        let padded = filters.next_multiple_of(VECTOR);
        let kind = kind(target, layer, channels, around);
        let Around {
            before, activation, ..
        } = around;
        let places = window.kernel[0] * window.kernel[1];
        // `[filters, places, channels]`.
        let values = host::to_vec(&weight.permute((0, 2, 3, 1))?.contiguous()?)?;
        let weight = match kind {
            Kind::Any => weights.values(&values),
            Kind::Lines(lines) => {
                weights.values(&lines.taps(&values, [padded, channels], window.kernel))
            }
            Kind::Sm90 { chunks } => {
                let width = chunks * STEP;
                let mut rows = vec![0.0; padded * places * width];
                for (filter, (values, row)) in values
                    .chunks_exact(places * channels)
                    .zip(rows.chunks_exact_mut(places * width))
                    .enumerate()
                {
                    // A group's channels among the 64 of its tile.
                    let first = if layer.groups == 1 {
                        0
                    } else {
                        filter / channels * channels % STEP
                    };
                    for (values, row) in values
                        .chunks_exact(channels)
                        .zip(row.chunks_exact_mut(width))
                    {
                        row[first..first + channels].copy_from_slice(values);
                    }
                }
                weights.values(&rows)
            }
        };
        let mut bias = host::to_vec(bias)?;
        bias.resize(padded, 0.0);
        let before = before.map(|before| {
            let spans = before.factors.each_ref().map(|factors| match kind {
                Kind::Any | Kind::Lines(_) => weights.floats(factors),
                Kind::Sm90 { chunks } => {
                    let mut factors = factors.clone();
                    factors.resize(chunks * STEP, 0.0);
                    weights.halves(&factors)
                }
            });
            (spans, before.activation)
        });
        Ok(Self {
            weight,
            bias: Some(weights.floats(&bias)),
            before,
            kind,
            window,
            groups: layer.groups,
            filters,
            activation,
        })
    }
}

/// Which kernels can compute a layer.
fn kind(
    target: &Target,
    layer: &graph::Convolution,
    channels: usize,
    Around {
        before,
        activation,
        sums,
        first,
    }: Around<'_>,
) -> Kind {
    let Window {
        kernel,
        stride,
        padding,
    } = layer.window;
    let grouped = layer.groups > 1;
    // Groups side by side fill the channels of a step, each with as many filters as channels.
    let fits_groups = !grouped
        || STEP.is_multiple_of(channels)
            && (channels * layer.groups).is_multiple_of(STEP)
            && layer.outputs == channels * layer.groups;
    let fits_before = before.is_none_or(|before| {
        !grouped && kernel == [1, 1] && padding == [0, 0] && before.activation == Activation::Relu
    });
    // What follows a sum is all that follows.
    let fits_end = !sums || activation == Activation::None;
    let fits_engine =
        stride[0] == stride[1] && stride[0] <= 8 && kernel.iter().all(|side| *side <= 128);
    let hopper = target.element == Element::F16 && target.capability == (9, 0);
    if hopper
        && first
        && !sums
        && before.is_none()
        && let Some(lines) = Lines::of(layer, channels)
    {
        return Kind::Lines(lines);
    }
    match hopper && fits_groups && fits_before && fits_end && fits_engine {
        true => Kind::Sm90 {
            chunks: if grouped { 1 } else { channels.div_ceil(STEP) },
        },
        false => Kind::Any,
    }
}

impl Pass<'_> {
    /// Adds its launch.
    ///
    /// # Errors
    /// The grid is larger than any card takes.
    pub(crate) fn push(&self, target: &Target, program: &mut Program) -> Result<()> {
        match self.layer.kind {
            Kind::Any => self.push_any(target, program),
            Kind::Sm90 { chunks } => self.push_sm90(target, program, chunks),
            Kind::Lines(lines) => self.push_lines(program, lines),
        }
    }

    fn push_any(&self, target: &Target, program: &mut Program) -> Result<()> {
        let Self {
            layer,
            input,
            output,
            residual,
            after,
        } = *self;
        let Window {
            kernel,
            stride,
            padding,
        } = layer.window;
        let grid = Grid {
            blocks: [
                output.pixels().div_ceil(64),
                (layer.filters / layer.groups + 7).div_ceil(64),
                layer.groups,
            ],
            threads: 256,
            shared: 0,
        };
        let ([scale, shift], before) = match layer.before {
            Some((spans, activation)) => (spans.map(Span::read), activation),
            None => ([Argument::Null; 2], Activation::None),
        };
        let pitch = residual.map_or(0, |residual| residual.pitch);
        let numbers = [
            input.count,
            input.size[0],
            input.size[1],
            input.channels,
            input.pitch,
            output.size[0],
            output.size[1],
            layer.filters,
            output.pitch,
            pitch,
            kernel[0],
            kernel[1],
            stride[0],
            stride[1],
            padding[0],
            padding[1],
            layer.groups,
            before as usize,
            layer.activation as usize,
            after as usize,
        ];
        let spans = [
            input.span.read(),
            scale,
            shift,
            layer.weight.read(),
            layer.bias.into(),
            residual.map(|residual| residual.span).into(),
            output.span.write(),
        ];
        let arguments = spans.into_iter().chain(numbers.map(Argument::from));
        let name = format!("conv_{}", target.element.name());
        // SAFETY: the arguments are those that the head of `conv.cu` lists, of the shapes that it states.
        unsafe { program.push((Source::Conv, name), grid, arguments) }
    }

    fn push_sm90(&self, target: &Target, program: &mut Program, chunks: usize) -> Result<()> {
        let Self {
            layer,
            input,
            output,
            residual,
            after,
        } = *self;
        let Window {
            kernel,
            stride,
            padding,
        } = layer.window;
        let filters = layer.filters.next_multiple_of(VECTOR);
        let (pixels, steps) = (output.pixels(), kernel[0] * kernel[1] * chunks);
        let grouped = layer.groups > 1;
        let tile = Tile::of(
            [pixels, filters, steps],
            (grouped, layer.before.is_some()),
            target.processors,
        );
        let [rows, columns] = tile.size;
        let patches = Patches {
            span: input.span,
            images: input.count,
            size: input.size,
            channels: input.channels,
            pitch: input.pitch,
            window: layer.window,
            tile: [rows as u32, STEP as u32],
        };
        let weight = Map::new(
            layer.weight,
            [filters, steps * STEP],
            [columns as u32, STEP as u32],
        );
        let map = |images: Images, rows: usize| {
            Map::pitched(
                images.span,
                [pixels, filters],
                images.pitch,
                [rows as u32, STEP as u32],
            )
        };
        let activation = match residual {
            Some(_) => after,
            None => layer.activation,
        };
        let ([scale, shift], _) = match layer.before {
            Some((spans, activation)) => (spans.map(Span::read), activation),
            None => ([Argument::Null; 2], Activation::None),
        };
        let numbers = [
            pixels,
            filters,
            output.size[0],
            output.size[1],
            stride[0],
            padding[0],
            padding[1],
            kernel[1],
            chunks,
            steps,
            activation as usize,
            output.pitch,
            residual.map_or(0, |residual| residual.pitch),
            tile.stages,
            usize::from(grouped),
        ];
        let head = [
            Argument::ReadPatches(patches),
            Argument::ReadMap(weight),
            Argument::WriteMap(map(output, 16)),
            Argument::ReadMap(residual.map_or(weight, |residual| map(residual, rows))),
            layer.bias.into(),
            output.span.write(),
            residual.map(|residual| residual.span).into(),
            scale,
            shift,
        ];
        let arguments = head.into_iter().chain(numbers.map(Argument::from));
        // SAFETY: the arguments are those that the head of `conv_sm90.cu` lists, of the shapes that it states.
        unsafe {
            program.push(
                (Source::ConvSm90, tile.kernel()),
                tile.grid([pixels, filters]),
                arguments,
            )
        }
    }
}
