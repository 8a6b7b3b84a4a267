//! Depthwise convolution, and how its output is cut into tiles.

use candle_core::Result;

use super::{
    layout::{bias, padded, turned},
    planner::{Images, Planner},
};
use crate::{
    activation::Activation,
    cuda::{Argument, Element, Grid, Program, Source, Span, Weights},
    host,
    image::{Convolution, Window, padding::Size},
};

/// Channels of a block of channels.
const CHANNELS: usize = 16;
/// Images side by side, at most: a grid has no more room. Blocks of threads take several where there are more.
const MOST_IMAGES: usize = 65_535;

#[derive(Debug)]
pub(crate) struct Depthwise {
    /// `[kernel * kernel, channels]`, f32.
    weight: Span,
    bias: Span,
    /// Padded.
    channels: usize,
    kernel: usize,
    window: Window,
}

/// Sums over each channel's output, tile by tile: what squeeze-excite takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partials {
    /// `[images, tiles, channels]`, f32.
    pub(super) span: Span,
    pub(super) tiles: usize,
}

impl Depthwise {
    /// Also its channels before they were padded.
    pub(crate) fn new(
        weights: &mut Weights,
        layer: &Convolution,
        window: Window,
    ) -> Result<(Self, usize)> {
        let [channels, kernel] = layer.depthwise(window)?;
        let values = host::to_vec(&layer.weight)?;
        let depthwise = Self {
            weight: weights.floats(&turned(&values, kernel * kernel)),
            bias: bias(weights, layer, channels)?,
            channels: padded(channels),
            kernel,
            window,
        };
        Ok((depthwise, channels))
    }

    /// With the sums if `summed`.
    ///
    /// # Errors
    /// The images are too small, or too large for a launch.
    pub(super) fn push(
        &self,
        planner: &mut Planner<'_>,
        x: Images,
        summed: bool,
    ) -> Result<(Images, Option<Partials>)> {
        let size = self.out(x.size)?;
        let out = planner.images(x.count, size, self.channels)?;
        let tiling = self.tiling(planner.target.element, size);
        let tiles = tiling.tiles(size);
        let partials = summed.then(|| Partials {
            span: (planner.scratch).take(x.count * tiles * self.channels * size_of::<f32>()),
            tiles,
        });
        let images = [x, out];
        let program = &mut planner.program;
        self.launch(
            planner.target.element,
            program,
            images,
            partials,
            planner.activation,
        )?;
        Ok((out, partials))
    }

    /// An image's size after it.
    fn out(&self, size: Size) -> Result<Size> {
        let Window { stride, padding } = self.window;
        let [down, across] = padding.axes(size, self.kernel, stride)?;
        Ok(Size {
            height: down.out,
            width: across.out,
        })
    }

    fn tiling(&self, element: Element, out: Size) -> Tiling {
        Tiling::of(element, [self.kernel, self.window.stride], out)
    }

    /// From images into others, whose channels are all of a pixel.
    ///
    /// # Errors
    /// The images are too small, or too large for a launch.
    pub(crate) fn launch(
        &self,
        element: Element,
        program: &mut Program,
        [x, out]: [Images; 2],
        partials: Option<Partials>,
        activation: Activation,
    ) -> Result<()> {
        assert_eq!([x.channels, out.channels], [self.channels; 2], "channels");
        let Window { stride, padding } = self.window;
        let [down, across] = padding.axes(x.size, self.kernel, stride)?;
        let tiling = self.tiling(element, out.size);
        let blocks = tiling.blocks(self.channels);
        let tiles = tiling.tiles(out.size);
        let grid = Grid {
            blocks: [
                self.channels.div_ceil(CHANNELS * blocks),
                tiles,
                x.count.min(MOST_IMAGES),
            ],
            threads: tiling.threads(blocks),
            shared: tiling.shared(element, [self.kernel, stride], blocks),
        };
        let kernel = format!(
            "depthwise_{}_k{}s{stride}_{}",
            element.name(),
            self.kernel,
            tiling.columns
        );
        let arguments = [
            x.span.read(),
            self.weight.read(),
            self.bias.read(),
            out.span.write(),
            partials.map_or(Argument::Null, |partials| partials.span.write()),
            x.count.into(),
            x.size.height.into(),
            x.size.width.into(),
            self.channels.into(),
            down.before.into(),
            across.before.into(),
            down.out.into(),
            across.out.into(),
            tiling.rows.into(),
            tiling.strips.into(),
            blocks.into(),
            (activation as usize).into(),
        ];
        // SAFETY: the arguments are those that the head of `depthwise.cu` lists, of the shapes that it states.
        unsafe { program.push((Source::Depthwise, kernel), grid, arguments) }
    }
}

/// The part of the output that a block of threads computes: `rows` by `strips * columns`. It decides the order of the sums,
/// so it follows from the layer and the image's size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiling {
    rows: usize,
    /// Strips of columns side by side, each a thread's for two channels.
    strips: usize,
    columns: usize,
}

impl Tiling {
    /// What an H100 was fastest with, or nearly, at each layer of EfficientNet-B2, put as a rule.
    fn of(element: Element, [kernel, stride]: [usize; 2], out: Size) -> Self {
        let covered = |columns: usize| out.width.next_multiple_of(columns);
        let columns = match (element, stride) {
            (Element::F32, _) => 4,
            // Four, unless they reach far beyond the image's end.
            (Element::F16, 1) if 8 * covered(4) <= 9 * covered(3) => 4,
            (Element::F16, _) => 3,
        };
        let strips = out.width.div_ceil(columns);
        let across = match (stride, kernel) {
            (1, _) if strips <= 7 => 1,
            // Three tiles, of which none has more than 16 strips.
            (1, _) => strips.div_ceil(16).max(3),
            (_, 3) => strips.div_ceil(4),
            (_, _) => strips.div_ceil(6),
        };
        let most_rows = match stride {
            1 => 18,
            // A stride of two halves the lines that tiles share, so that more of them cost less.
            _ => (out.height / 2).clamp(9, 18),
        };
        Self {
            rows: out.height.div_ceil(out.height.div_ceil(most_rows)),
            strips: strips.div_ceil(across),
            columns,
        }
    }

    /// Of an image.
    fn tiles(&self, out: Size) -> usize {
        out.height.div_ceil(self.rows) * out.width.div_ceil(self.strips * self.columns)
    }

    /// Blocks of channels for about a hundred threads, the same number in all blocks of threads if it can be.
    fn blocks(&self, channels: usize) -> usize {
        let all = channels.div_ceil(CHANNELS);
        let most = (16 / self.strips).clamp(1, 4);
        all.div_ceil(all.div_ceil(most))
    }

    fn threads(&self, blocks: usize) -> u32 {
        (self.strips * blocks * (CHANNELS / 2)).next_multiple_of(32) as u32
    }

    /// Bytes: a ring of eight lines of the input, and sums of the strips.
    fn shared(&self, element: Element, [kernel, stride]: [usize; 2], blocks: usize) -> u32 {
        let strip = self.columns * stride;
        let pixels = self.strips * strip - stride + kernel;
        // Strips of an even length have a gap after them.
        let gaps = if strip.is_multiple_of(2) {
            pixels / strip
        } else {
            0
        };
        let ring = 8 * blocks * CHANNELS * (pixels + gaps) * element.size();
        let sums = self.strips * blocks * CHANNELS * size_of::<f32>();
        (ring + sums) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(side: usize) -> Size {
        Size {
            height: side,
            width: side,
        }
    }

    #[test]
    fn b2_gets_the_tiles_that_were_measured() {
        for (kernel, stride, side, expected) in [
            (3, 1, 144, [18, 12, 4]),
            (3, 2, 72, [18, 4, 3]),
            (3, 1, 72, [18, 6, 4]),
            (5, 2, 36, [18, 6, 3]),
            (5, 1, 36, [18, 3, 4]),
            (3, 2, 18, [9, 3, 3]),
            (3, 1, 18, [18, 5, 4]),
            (5, 1, 18, [18, 5, 4]),
            (5, 2, 9, [9, 3, 3]),
            (5, 1, 9, [9, 3, 3]),
            (3, 1, 9, [9, 3, 3]),
        ] {
            let Tiling {
                rows,
                strips,
                columns,
            } = Tiling::of(Element::F16, [kernel, stride], square(side));
            assert_eq!(
                [rows, strips, columns],
                expected,
                "{kernel} {stride} {side}"
            );
        }
    }

    #[test]
    fn every_tiling_fits_a_block_of_threads() {
        for element in [Element::F16, Element::F32] {
            for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
                for side in 1..600 {
                    let tiling = Tiling::of(element, [kernel, stride], square(side));
                    assert!(tiling.rows >= 1 && tiling.strips >= 1);
                    for channels in [8, 16, 24, 40, 144, 1248] {
                        let blocks = tiling.blocks(channels);
                        assert!(blocks >= 1 && blocks * tiling.strips <= 32, "{tiling:?}");
                        assert!(tiling.threads(blocks) <= 256, "{tiling:?}");
                        // What the smallest of the cards that there are kernels for has.
                        let shared = tiling.shared(element, [kernel, stride], blocks);
                        assert!(shared <= 99 << 10, "{tiling:?} {blocks}: {shared}");
                    }
                }
            }
        }
    }
}
