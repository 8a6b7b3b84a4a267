//! The first convolution, from decoded bytes or from what they mean.

use candle_core::Result;

use super::{
    layout::{bias, padded, turned},
    planner::{Images, Planner},
};
use crate::{
    cuda::{Argument, Element, Grid, Source, Span, Weights},
    host,
    image::{Layers, Padding, padding::Size},
};

pub(super) const COLOURS: usize = 3;
const KERNEL: usize = 3;
const STRIDE: usize = 2;
/// Values under a line of a window.
const LINE: usize = KERNEL * COLOURS;
/// Values under a window.
const TAPS: usize = KERNEL * LINE;

/// How pixels come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pixels {
    /// Bytes, of which the layers' colours say what they mean.
    Bytes,
    /// f32 that mean what they are.
    Floats,
}

impl Pixels {
    /// Bytes of a value.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Bytes => 1,
            Self::Floats => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Floats => "floats",
        }
    }
}

#[derive(Debug)]
pub(super) struct Stem {
    weight: Span,
    bias: Span,
    /// What a byte of each colour is multiplied by, and what is then added.
    scale: Span,
    shift: Span,
    /// Padded.
    channels: usize,
    padding: Padding,
}

impl Stem {
    /// Also its channels before they were padded.
    pub(super) fn new(weights: &mut Weights, layers: &Layers) -> Result<(Self, usize)> {
        let layer = &layers.stem;
        let channels = layer.weight.dim(0)?;
        let shape = [channels, COLOURS, KERNEL, KERNEL];
        host::expect_shape("stem's weight", &layer.weight, &shape)?;
        let values = host::to_vec(&layer.weight.permute((0, 2, 3, 1))?.contiguous()?)?;
        let weight = match weights.element() {
            Element::F32 => weights.floats(&turned(&values, TAPS)),
            Element::F16 => weights.halves(&lines_apart(&values)),
        };
        let [scale, shift] = layers.colours.scale_and_shift();
        let stem = Self {
            weight,
            bias: bias(weights, layer, channels)?,
            scale: weights.floats(&scale),
            shift: weights.floats(&shift),
            channels: padded(channels),
            padding: layers.stem_padding,
        };
        Ok((stem, channels))
    }

    /// Of `count` images of pixels `[height, width, 3]`.
    ///
    /// # Errors
    /// The images are too small, or too many for a launch.
    pub(super) fn push(
        &self,
        planner: &mut Planner<'_>,
        pixels: (Span, Pixels),
        (count, size): (usize, Size),
    ) -> Result<Images> {
        let [rows, columns] = self.padding.axes(size, KERNEL, STRIDE)?;
        let out = Size {
            height: rows.out,
            width: columns.out,
        };
        let out = planner.images(count, out, self.channels)?;
        let element = planner.target.element;
        let grid = match element {
            Element::F32 => Grid::row(out.pixels().div_ceil(128), 128),
            Element::F16 => Grid {
                blocks: [columns.out.div_ceil(48), rows.out.div_ceil(4), count],
                threads: 128,
                shared: 0,
            },
        };
        let (pixels, kind) = pixels;
        let kernel = format!("stem_{}_{}", element.name(), kind.name());
        let source = (Source::Stem, kernel);
        let [first, weight, bias, to] = [
            pixels.read(),
            self.weight.read(),
            self.bias.read(),
            out.span.write(),
        ];
        let [
            images,
            height,
            width,
            channels,
            top,
            left,
            out_height,
            out_width,
            activation,
        ] = [
            count,
            size.height,
            size.width,
            self.channels,
            rows.before,
            columns.before,
            rows.out,
            columns.out,
            planner.activation as usize,
        ]
        .map(Argument::from);
        let program = &mut planner.program;
        // SAFETY: the arguments are those that the head of `stem.cu` lists, of the shapes that it states.
        unsafe {
            match kind {
                Pixels::Floats => program.push(
                    source,
                    grid,
                    [
                        first, weight, bias, to, images, height, width, channels, top, left,
                        out_height, out_width, activation,
                    ],
                ),
                Pixels::Bytes => program.push(
                    source,
                    grid,
                    [
                        first,
                        self.scale.read(),
                        self.shift.read(),
                        weight,
                        bias,
                        to,
                        images,
                        height,
                        width,
                        channels,
                        top,
                        left,
                        out_height,
                        out_width,
                        activation,
                    ],
                ),
            }
        }?;
        Ok(out)
    }
}

/// `[channels, TAPS]` -> `[padded channels, 32]`: a line's values are followed by a zero, and all of them by more.
fn lines_apart(values: &[f32]) -> Vec<f32> {
    const DEPTH: usize = 32;
    let mut apart = vec![0.0; padded(values.len() / TAPS) * DEPTH];
    for (window, to) in values.chunks_exact(TAPS).zip(apart.chunks_exact_mut(DEPTH)) {
        for (line, to) in window.chunks_exact(LINE).zip(to.chunks_exact_mut(LINE + 1)) {
            to[..LINE].copy_from_slice(line);
        }
    }
    apart
}
