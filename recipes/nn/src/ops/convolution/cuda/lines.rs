//! The first convolution of a network on Hopper: with three colours a place has too little for the tensor cores, but a line of
//! the kernel, which lies in one piece, has enough.

use candle_core::Result;

use super::{Convolution, Images, Pass, STEP, VECTOR};
use crate::{
    cuda::{Argument, Boxes, Grid, Program, Source, Span, Swizzle},
    graph,
};

/// Pixels of a tile, down and across, and its filters.
const TILE: [usize; 3] = [8, 16, 64];
/// Bytes of the operands of a step, and of what else a block keeps.
const STAGE: usize = (TILE[0] * TILE[1] + TILE[2]) * STEP * 2;
const OVERHEAD: usize = 1280;

/// How lines are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    /// Values of a line of the kernel, and those behind it: 16, 32 or 64.
    line: usize,
    /// Values of a pixel.
    channels: usize,
}

/// How images that come in must lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Border {
    /// Zeros before the first line, and before each line's first pixel.
    pub(crate) before: [usize; 2],
    /// Lines and pixels, with zeros before and after.
    pub(crate) size: [usize; 2],
    /// Values of a pixel.
    pub(crate) channels: usize,
}

impl Lines {
    /// For a layer of so many channels, if it can be read so.
    pub(super) fn of(layer: &graph::Convolution, channels: usize) -> Option<Self> {
        let window = layer.window;
        // The copy engine goes by 16 bytes.
        let wide = if window.stride[1].is_multiple_of(2) {
            4
        } else {
            8
        };
        let line = (window.kernel[1] * wide).next_power_of_two().max(16);
        (layer.groups == 1
            && channels <= wide
            && line <= STEP
            && window.stride[0] == window.stride[1])
            .then_some(Self {
                line,
                channels: wide,
            })
    }

    /// Lines of a step.
    fn together(self) -> usize {
        STEP / self.line
    }

    /// Lines of a kernel in whole steps.
    fn lines(self, kernel: [usize; 2]) -> usize {
        kernel[0].next_multiple_of(self.together())
    }

    /// What a filter's weight becomes.
    pub(super) fn shape(self, kernel: [usize; 2]) -> [usize; 2] {
        [self.lines(kernel), self.line]
    }

    /// `[filters, kernel, channels]` -> `[padded filters, lines, line]`.
    pub(super) fn taps(
        self,
        values: &[f32],
        [padded, channels]: [usize; 2],
        kernel: [usize; 2],
    ) -> Vec<f32> {
        let [down, across] = kernel;
        let lines = self.lines(kernel);
        let mut taps = vec![0.0; padded * lines * self.line];
        for (place, values) in values.chunks_exact(channels).enumerate() {
            let (x, y) = (place % across, place / across % down);
            let filter = place / across / down;
            let to = (filter * lines + y) * self.line + x * self.channels;
            taps[to..to + channels].copy_from_slice(values);
        }
        taps
    }
}

impl Convolution {
    /// How images of a size must lie, if not as others do.
    pub(crate) fn border(&self, size: [usize; 2], out: [usize; 2]) -> Option<Border> {
        let super::Kind::Lines(Lines { line, channels }) = self.kind else {
            return None;
        };
        let [top, left] = self.window.padding;
        // The last window's line ends within the image's.
        let covered = (out[1] - 1) * self.window.stride[1] + line / channels;
        let width = covered.max(size[1] + 2 * left);
        Some(Border {
            before: [top, left],
            size: [size[0] + 2 * top, width.next_multiple_of(2)],
            channels,
        })
    }
}

impl Pass<'_> {
    pub(super) fn push_lines(&self, program: &mut Program, lines: Lines) -> Result<()> {
        let Self {
            layer,
            input,
            output,
            ..
        } = *self;
        let Lines { line, channels } = lines;
        let stride = layer.window.stride[0];
        let [height, width] = input.size;
        let [down, across] = output.size;
        let filters = layer.filters.next_multiple_of(VECTOR);
        let all = lines.lines(layer.window.kernel);
        let steps = all * line / STEP;
        let swizzle = Swizzle::of(line * 2);
        let together = lines.together() as u32;
        let pixels = Boxes {
            span: input.span,
            rank: 5,
            dimensions: [line, across, down, layer.window.kernel[0], input.count],
            strides: [
                1,
                stride * channels,
                stride * width * channels,
                width * channels,
                height * width * channels,
            ],
            tile: [line as u32, TILE[1] as u32, TILE[0] as u32, together, 1],
            swizzle,
        };
        let taps = Boxes {
            span: layer.weight,
            rank: 3,
            dimensions: [line, filters, all, 0, 0],
            strides: [1, all * line, line, 0, 0],
            tile: [line as u32, TILE[2] as u32, together, 0, 0],
            swizzle,
        };
        let Images { span, pitch, .. } = output;
        let to = Boxes {
            span,
            rank: 4,
            dimensions: [filters, across, down, output.count, 0],
            strides: [1, pitch, pitch * across, pitch * across * down, 0],
            tile: [TILE[2] as u32, TILE[1] as u32, 1, 1, 0],
            swizzle: Swizzle::Bytes128,
        };
        let stages = (steps + 2).min(4);
        let tiles = down.div_ceil(TILE[0]) * across.div_ceil(TILE[1]) * output.count;
        let grid = Grid {
            blocks: [tiles * filters.div_ceil(TILE[2]), 1, 1],
            threads: 288,
            shared: (stages * STAGE + OVERHEAD) as u32,
        };
        let numbers = [
            output.pixels(),
            filters,
            down,
            across,
            stride,
            0,
            0,
            1,
            1,
            steps,
            layer.activation as usize,
            pitch,
            0,
            stages,
            0,
        ];
        let none: Option<Span> = None;
        let head = [
            Argument::ReadBoxes(pixels),
            Argument::ReadBoxes(taps),
            Argument::WriteBoxes(to),
            Argument::ReadBoxes(taps),
            layer.bias.into(),
            span.write(),
            none.into(),
            none.into(),
            none.into(),
        ];
        let arguments = head.into_iter().chain(numbers.map(Argument::from));
        let kernel = (Source::ConvSm90, format!("conv_f16_sm90_lines{line}"));
        // SAFETY: the arguments are those that the head of `conv_sm90.cu` lists, of the shapes that it states.
        unsafe { program.push(kernel, grid, arguments) }
    }
}
