//! Channels by themselves: bound by memory, so that each is read about once.

use candle_core::Result;

use super::{Layer, THREADS, share};
use crate::{
    cuda::{Argument, Draft, Grid, Source, Span},
    graph::{Shape, Window},
    ops::{Onto, pixels::cuda::adds},
};

/// Pixels of a strip.
const STRIP: usize = 4;
/// Threads that have channels of the same pixel, at most.
const LANES: usize = 32;
/// Blocks for each multiprocessor: enough to hide what memory takes, and few enough that one sees its lines again.
const BLOCKS: usize = 8;

/// How channels and pixels are spread over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spread {
    /// Channels of a thread.
    vector: usize,
    lanes: usize,
    /// Strips, or pixels, of a block.
    share: usize,
    blocks: [usize; 3],
}

impl Spread {
    /// Of so many channels, and pieces of lines.
    fn of(channels: usize, vector: usize, pieces: usize, blocks: usize) -> Self {
        let vectors = channels / vector;
        let down = vectors.div_ceil(LANES);
        let lanes = vectors.div_ceil(down);
        let (share, shares) = share::even(pieces, blocks.div_ceil(down), THREADS / lanes);
        Self {
            vector,
            lanes,
            share,
            blocks: [shares, down, 1],
        }
    }

    fn grid(&self, shared: usize) -> Grid {
        Grid {
            blocks: self.blocks,
            threads: THREADS as u32,
            shared: shared as u32,
        }
    }
}

/// Of so many channels those that a thread has: at most so many.
fn vector(channels: usize, most: usize) -> usize {
    [4, 2]
        .into_iter()
        .find(|vector| *vector <= most && channels.is_multiple_of(*vector))
        .unwrap_or(1)
}

/// What the kernels of known windows are for: the side of a kernel, and the stride.
fn known(window: Window) -> Option<[usize; 2]> {
    let [side, stride] = [window.kernel[0], window.stride[0]];
    let square = window.kernel == [side; 2] && window.stride == [stride; 2];
    (square && matches!(side, 3 | 5) && matches!(stride, 1 | 2)).then_some([side, stride])
}

/// Pieces of the lines of all images.
fn pieces(images: usize, shape: Shape, strip: usize) -> usize {
    images * shape.height * shape.width.div_ceil(strip)
}

pub(super) fn forward(
    layer: &Layer,
    draft: &mut Draft,
    (weight, bias): (Span, Option<Span>),
    [x, y]: [Span; 2],
) -> Result<()> {
    let pass = Pass {
        images: layer.images,
        window: layer.convolution.window,
        from: layer.from,
        to: layer.to,
        backward: false,
    };
    pass.launch(draft, (weight, bias), x, (y, Onto::Write))
}

pub(super) fn backward_input(
    layer: &Layer,
    draft: &mut Draft,
    weight: Span,
    dy: Span,
    dx: (Span, Onto),
) -> Result<()> {
    let pass = Pass {
        images: layer.images,
        window: layer.convolution.window,
        from: layer.to,
        to: layer.from,
        backward: true,
    };
    pass.launch(draft, (weight, None), dy, dx)
}

/// Forward, or backward: `from` becomes `to`, the window is the layer's.
struct Pass {
    images: usize,
    window: Window,
    from: Shape,
    to: Shape,
    backward: bool,
}

/// What computes a pass.
enum Kernel {
    /// Windows of a side and a stride with so much padding: backward, with a stride of one, those that have the weights in the
    /// opposite order.
    Known {
        known: [usize; 2],
        padding: [usize; 2],
    },
    /// Backward of a stride of two, with as much padding as is usual.
    Back {
        side: usize,
    },
    Any,
}

impl Pass {
    fn kernel(&self) -> Kernel {
        let padding = self.window.padding;
        let Some(known) = known(self.window) else {
            return Kernel::Any;
        };
        let [side, stride] = known;
        match (self.backward, stride) {
            (false, _) => Kernel::Known { known, padding },
            (true, 1) if padding.iter().all(|padding| *padding < side) => Kernel::Known {
                known,
                padding: padding.map(|padding| side - 1 - padding),
            },
            (true, 2) if padding == [side / 2; 2] => Kernel::Back { side },
            _ => Kernel::Any,
        }
    }

    fn launch(
        &self,
        draft: &mut Draft,
        (weight, bias): (Span, Option<Span>),
        from: Span,
        (to, onto): (Span, Onto),
    ) -> Result<()> {
        let kernel = self.kernel();
        let channels = self.to.channels;
        let strip = if matches!(kernel, Kernel::Any) {
            1
        } else {
            STRIP
        };
        let spread = Spread::of(
            channels,
            vector(channels, 4),
            pieces(self.images, self.to, strip),
            BLOCKS * draft.target.processors,
        );
        let taps = self.window.kernel.iter().product::<usize>();
        let grid = spread.grid(taps * spread.vector * LANES * size_of::<f32>());
        let shapes = [
            self.images,
            self.from.height,
            self.from.width,
            channels,
            self.to.height,
            self.to.width,
        ];
        let Window {
            kernel: sides,
            stride,
            padding,
        } = self.window;
        let backward = vec![usize::from(self.backward)];
        let (name, window, backward) = match kernel {
            Kernel::Known {
                known: [side, stride],
                padding,
            } => (format!("{side}_{stride}"), padding.to_vec(), backward),
            Kernel::Back { side } => (format!("back_{side}"), Vec::new(), Vec::new()),
            Kernel::Any => {
                let window = [sides, stride, padding].concat();
                ("any".to_owned(), window, backward)
            }
        };
        let biases = match kernel {
            Kernel::Back { .. } => None,
            Kernel::Known { .. } | Kernel::Any => Some(bias.into()),
        };
        let numbers = (shapes.into_iter().chain(window))
            .chain([spread.lanes, spread.share])
            .chain(backward);
        let spans = [to.write(), from.read(), weight.read()];
        let arguments = (spans.into_iter().chain(biases))
            .chain(numbers.map(Argument::from))
            .chain([adds(onto)]);
        let kernel = format!("train_depthwise_{name}_{}", spread.vector);
        // SAFETY: the arguments are those that the head of `train_conv_depthwise.cu` lists, of the shapes that it states.
        unsafe { draft.launch((Source::TrainConvDepthwise, &kernel), grid, arguments) }
    }
}

pub(super) fn backward_weight(
    layer: &Layer,
    draft: &mut Draft,
    [x, dy]: [Span; 2],
    dweight: Span,
) -> Result<()> {
    let Window {
        kernel,
        stride,
        padding,
    } = layer.convolution.window;
    let channels = layer.to.channels;
    let shapes = [
        layer.images,
        layer.from.height,
        layer.from.width,
        channels,
        layer.to.height,
        layer.to.width,
    ];
    // Sums of all taps are in registers: of larger windows, for fewer channels.
    let known = known(layer.convolution.window)
        .map(|[side, stride]| {
            (
                side,
                stride,
                vector(channels, if side == 3 { 4 } else { 2 }),
            )
        })
        .filter(|(.., vector)| *vector > 1);
    let (name, grid, shares, numbers) = if let Some((side, stride, vector)) = known {
        let pieces = pieces(layer.images, layer.to, STRIP);
        let blocks = BLOCKS / 2 * draft.target.processors;
        let spread = Spread::of(channels, vector, pieces, blocks);
        let grid = spread.grid(vector * THREADS * size_of::<f32>());
        let end = [padding, [spread.lanes, spread.share]].concat();
        let name = format!("{side}_{stride}_{vector}");
        (name, grid, spread.blocks[0], end)
    } else {
        let taps = kernel[0] * kernel[1];
        let [across, pixels] = [channels.div_ceil(LANES), layer.images * layer.to.pixels()];
        let blocks = (BLOCKS * draft.target.processors).div_ceil(across * taps);
        let (share, shares) = share::even(pixels, blocks, THREADS / LANES);
        let grid = Grid {
            blocks: [across, taps, shares],
            threads: THREADS as u32,
            shared: 0,
        };
        let end = [&[kernel, stride, padding].concat()[..], &[share]].concat();
        ("any".to_owned(), grid, shares, end)
    };
    let parts = share::parts(draft, dweight, shares);
    let numbers = shapes.into_iter().chain(numbers).map(Argument::from);
    let spans = [parts.write(), x.read(), dy.read()];
    let kernel = format!("train_depthwise_weight_{name}");
    // SAFETY: the arguments are those that the head of `train_conv_depthwise.cu` lists, of the shapes that it states.
    unsafe {
        draft.launch(
            (Source::TrainConvDepthwise, &kernel),
            grid,
            spans.into_iter().chain(numbers),
        )?;
    }
    share::sum(draft, parts, dweight, shares)
}
