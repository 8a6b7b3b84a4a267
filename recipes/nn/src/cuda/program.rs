//! A pass as a list of launches.

use candle_core::{Result, bail};

use super::{Convolution, Element, Product, Span};
use crate::graph::Window;

/// Threads of a block, at most.
const MOST_THREADS: u32 = 1024;
/// Shared memory of a block, at most: that of compute capability 9.0. Where a card has less, the driver says so.
const MOST_SHARED: u32 = 227 << 10;
/// Blocks along the grid's second and third axis, at most.
const MOST_BLOCKS: usize = 65_535;

/// A source file of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Stem,
    Depthwise,
    SqueezeExcite,
    LayerNorm,
    Attention,
    AttentionPlain,
    Pooling,
    TokenHead,
    LstmInputs,
    Lstm,
    LstmPlain,
    LstmStack,
    Crf,
    Matmul,
    MatmulF32,
    MatmulSm90,
    Conv,
    ConvSm90,
    Pixels,
    Resize,
    TrainValues,
    TrainPool,
    TrainTables,
    TrainUpdate,
    TrainNorm,
    TrainNormSm90,
    TrainLayerNorm,
    TrainAttention,
    TrainAttentionBack,
    TrainAttentionPlain,
    TrainLstm,
    TrainLstmSm90,
    TrainConv,
    TrainConvWeight,
    TrainConvWeightSm90,
    TrainConvLayout,
    TrainConvDepthwise,
}

/// What a kernel is launched with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Argument {
    /// Where a kernel may be given nothing.
    Null,
    /// A pointer to values that it reads.
    Read(Span),
    /// A pointer to values that it writes.
    Write(Span),
    /// Four bytes: an `int`, an `unsigned` or a `float`.
    Word(u32),
    /// A matrix that it reads by the copy engine.
    ReadMap(Map),
    /// A matrix that it writes by the copy engine.
    WriteMap(Map),
    /// Patches of images that it reads by the copy engine.
    ReadPatches(Patches),
    /// Boxes of more dimensions that it reads by the copy engine.
    ReadBoxes(Boxes),
    /// Boxes of more dimensions that it writes by the copy engine.
    WriteBoxes(Boxes),
}

/// How the copy engine finds boxes of a row-major matrix of f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) span: Span,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Values from row to row.
    pub(crate) pitch: usize,
    /// Rows and columns of a box.
    pub(crate) tile: [u32; 2],
    pub(crate) swizzle: Swizzle,
}

/// How the copy engine finds what lies under a moving window: of so many windows at once, one after the other through all
/// images, the pixel at one place of the window, zeros outside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patches {
    pub(crate) span: Span,
    pub(crate) images: usize,
    /// Pixels, `[down, across]`.
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// Values from pixel to pixel.
    pub(crate) pitch: usize,
    pub(crate) window: Window,
    /// Windows and channels of a box, the channels 128 bytes.
    pub(crate) tile: [u32; 2],
}

/// How the copy engine finds boxes of f16 in several dimensions, the innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boxes {
    pub(crate) span: Span,
    pub(crate) rank: usize,
    /// Places along each.
    pub(crate) dimensions: [usize; 5],
    /// Values from place to place, which are next to each other along the innermost.
    pub(crate) strides: [usize; 5],
    /// Of a box.
    pub(crate) tile: [u32; 5],
    pub(crate) swizzle: Swizzle,
}

/// The bytes after which the order of a box's 16-byte pieces repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swizzle {
    Bytes32,
    Bytes64,
    Bytes128,
}

impl Span {
    /// As what a kernel reads.
    pub(crate) fn read(self) -> Argument {
        Argument::Read(self)
    }

    /// As what a kernel writes.
    pub(crate) fn write(self) -> Argument {
        Argument::Write(self)
    }
}

impl From<Option<Span>> for Argument {
    /// What a kernel reads, if there is any.
    fn from(span: Option<Span>) -> Self {
        span.map_or(Self::Null, Self::Read)
    }
}

impl From<usize> for Argument {
    /// An `int`.
    ///
    /// # Panics
    /// It does not fit, which no shape that fits into memory does.
    fn from(number: usize) -> Self {
        let number = i32::try_from(number).expect("a kernel's sizes fit an int");
        Self::Word(number.cast_unsigned())
    }
}

impl From<f32> for Argument {
    fn from(number: f32) -> Self {
        Self::Word(number.to_bits())
    }
}

/// How many blocks of how many threads, and with how many bytes of dynamic shared memory each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) blocks: [usize; 3],
    pub(crate) threads: u32,
    pub(crate) shared: u32,
}

impl Grid {
    /// Blocks in a row, with no dynamic shared memory.
    pub(crate) fn row(blocks: usize, threads: u32) -> Self {
        Self {
            blocks: [blocks, 1, 1],
            threads,
            shared: 0,
        }
    }

    /// Blocks in all.
    pub(crate) fn count(&self) -> usize {
        self.blocks.iter().product()
    }
}

/// A launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    pub(crate) source: Source,
    pub(crate) kernel: String,
    pub(crate) grid: Grid,
    pub(crate) arguments: Vec<Argument>,
    /// Whether its blocks wait for each other, so that all of them have to run at once.
    pub(crate) together: bool,
}

/// One thing that a program does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Work {
    Launch(Launch),
    Product(Product),
    Convolution(Convolution),
    /// Averages f32 values in place with those that other devices have there, beside all that follows until they are joined.
    Average(Span),
    /// Waits for all averages.
    Join,
}

impl Work {
    /// The blocks of a kernel of ours.
    pub(crate) fn blocks(&self) -> Option<usize> {
        match self {
            Self::Launch(launch) => Some(launch.grid.count()),
            _ => None,
        }
    }
}

/// Launches, products, convolutions and averages in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    work: Vec<Work>,
}

impl Program {
    /// Adds a launch. One without blocks has nothing to do, and is left out.
    ///
    /// # Errors
    /// The grid is larger than any card takes.
    ///
    /// # Safety
    /// The arguments are of the number and the kinds that the kernel takes, and with them it reads and writes nothing
    /// but the spans among them.
    pub(crate) unsafe fn push(
        &mut self,
        (source, kernel): (Source, impl Into<String>),
        grid: Grid,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let [x, y, z] = grid.blocks;
        let kernel = kernel.into();
        if x > i32::MAX as usize || y.max(z) > MOST_BLOCKS {
            bail!("expected a batch that fits a launch of {kernel}, got {x} by {y} by {z} blocks")
        }
        if grid.threads > MOST_THREADS || grid.shared > MOST_SHARED {
            bail!("expected a block that a card has room for, got {grid:?} for {kernel}")
        }
        if x * y * z > 0 {
            self.work.push(Work::Launch(Launch {
                source,
                kernel,
                grid,
                arguments: arguments.into_iter().collect(),
                together: false,
            }));
        }
        Ok(())
    }

    /// Adds a launch whose blocks wait for each other. A card that has no room for all of them at once refuses the program.
    ///
    /// # Errors
    /// As [`Self::push`].
    ///
    /// # Safety
    /// As [`Self::push`].
    pub(crate) unsafe fn push_together(
        &mut self,
        kernel: (Source, impl Into<String>),
        grid: Grid,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let before = self.work.len();
        // SAFETY: as the caller's.
        unsafe { self.push(kernel, grid, arguments) }?;
        if let Some(Work::Launch(launch)) = self.work.get_mut(before) {
            launch.together = true;
        }
        Ok(())
    }

    /// Adds a product. One that gives no value has nothing to do, and is left out.
    ///
    /// # Panics
    /// As [`Product::check`].
    pub(crate) fn multiply(&mut self, product: Product) {
        product.check();
        let [rows, columns, _] = product.sizes;
        if rows * columns > 0 {
            self.work.push(Work::Product(product));
        }
    }

    /// Adds a convolution.
    ///
    /// # Panics
    /// As [`Convolution::check`].
    pub(crate) fn convolve(&mut self, convolution: Convolution) {
        convolution.check();
        self.work.push(Work::Convolution(convolution));
    }

    /// Adds the average of f32 values over all devices. Until [`Self::join`], nothing may touch them.
    pub(crate) fn average(&mut self, values: Span) {
        self.work.push(Work::Average(values));
    }

    /// Has what follows wait for all averages before.
    pub(crate) fn join(&mut self) {
        self.work.push(Work::Join);
    }

    pub(crate) fn work(&self) -> &[Work] {
        &self.work
    }

    /// Whether a vendor's library computes some of it, which needs memory to work in.
    #[cfg(feature = "cuda")]
    pub(super) fn wants_workspace(&self) -> bool {
        let mut work = self.work.iter();
        work.any(|work| !matches!(work, Work::Launch(_)))
    }

    /// Of all that it does, the launches of our own kernels.
    #[cfg(test)]
    pub(crate) fn launches(&self) -> impl ExactSizeIterator<Item = &Launch> {
        let launches = self.work.iter().filter_map(|work| match work {
            Work::Launch(launch) => Some(launch),
            _ => None,
        });
        launches.collect::<Vec<_>>().into_iter()
    }
}

impl Swizzle {
    /// For boxes of so many bytes a row.
    ///
    /// # Panics
    /// There is none.
    pub(crate) fn of(row_bytes: usize) -> Self {
        match row_bytes {
            32 => Self::Bytes32,
            64 => Self::Bytes64,
            128 => Self::Bytes128,
            _ => panic!("expected a box of 32, 64 or 128 bytes a row, got {row_bytes}"),
        }
    }
}

impl Map {
    /// A matrix that fills its span.
    ///
    /// # Panics
    /// The span is of another size.
    pub(crate) fn new(span: Span, [rows, columns]: [usize; 2], tile: [u32; 2]) -> Self {
        assert_eq!(
            span.bytes,
            rows * columns * Element::F16.size(),
            "a matrix of f16"
        );
        Self::pitched(span, [rows, columns], columns, tile)
    }

    /// A matrix whose rows are so many values apart.
    ///
    /// # Panics
    /// The span is shorter, or a box's row is of a size that there is no swizzle for.
    pub(crate) fn pitched(
        span: Span,
        [rows, columns]: [usize; 2],
        pitch: usize,
        tile: [u32; 2],
    ) -> Self {
        let size = Element::F16.size();
        let bytes = (rows.saturating_sub(1) * pitch + columns) * size;
        assert!(columns <= pitch && bytes <= span.bytes, "a matrix of f16");
        let row_bytes = tile[1] as usize * size;
        Self {
            span,
            rows,
            columns,
            pitch,
            tile,
            swizzle: Swizzle::of(row_bytes),
        }
    }
}
