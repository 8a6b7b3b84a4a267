//! The matrix product on a CUDA device: which of the kernels in `matmul*.cu` computes it, and how that is
//! launched.
//!
//! `matmul.cu` adds up an output's terms in one order whatever the tile, and so does `matmul_sm90.cu`, in another: within
//! one of them a row's result does not depend, to the bit, on how many rows there are.

#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

use crate::{
    activation::Activation,
    cuda::{Argument, Element, Grid, Map, Program, Source, Span, Target, Weights},
    host,
};

/// From so many rows on products fill the chip by tiles of 128 rows, and go to its asynchronous units.
pub(crate) const MANY_ROWS: usize = 1024;
/// Inputs for which a block of the wide kernel has room.
const WIDE_INPUTS: usize = 464;

/// A weight and its bias on the device, laid out as the kernels read them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dense {
    /// `[outputs, inputs]`.
    weight: Span,
    /// `[outputs]`, f32.
    bias: Span,
    inputs: usize,
    outputs: usize,
}

impl Dense {
    /// From a state dict's weight `[outputs, inputs]`, of which axes of 1 may follow, and bias `[outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit each other, or are no multiples of what a vector holds.
    pub(crate) fn new(weights: &mut Weights, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let (outputs, inputs) = match *weight.dims() {
            [outputs, inputs] | [outputs, inputs, 1, 1] => (outputs, inputs),
            _ => bail!("expected a matrix, got a weight {:?}", weight.dims()),
        };
        host::expect_shape("a bias", bias, &[outputs])?;
        let vector = 16 / weights.element().size();
        if !inputs.is_multiple_of(vector) || !outputs.is_multiple_of(vector) {
            bail!("expected a weight of multiples of {vector} values, got {outputs} by {inputs}")
        }
        Ok(Self {
            weight: weights.tensor(weight)?,
            bias: weights.float_tensor(bias)?,
            inputs,
            outputs,
        })
    }

    /// The weight, and the bias of f32.
    pub(crate) fn numbers(&self) -> (Span, Option<Span>) {
        (self.weight, Some(self.bias))
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }
}

/// Rows times a weight: `activation(x * gates W^T + bias) + residual`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    /// `[rows, inputs]`.
    pub(crate) x: Span,
    pub(crate) rows: usize,
    pub(crate) dense: &'a Dense,
    /// `[rows, outputs]`.
    pub(crate) out: Span,
    pub(crate) activation: Activation,
    /// Factors for the inputs.
    pub(crate) gates: Option<Gates>,
    /// What is added in the end, `[rows, outputs]`.
    pub(crate) residual: Option<Span>,
    /// Whether a row's result must be the same, to the bit, however many rows there are. It leaves out `matmul_sm90.cu`,
    /// which adds up in another order than what computes few rows.
    pub(crate) fixed_order: bool,
}

/// Factors for the inputs, the same for all rows of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gates {
    /// `[images, inputs]`.
    pub(crate) values: Span,
    pub(crate) rows_per_image: usize,
}

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    F32,
    /// `matmul.cu`'s tile of rows and columns.
    Tile([usize; 2]),
    /// All columns of a block's rows, or a share of them.
    Wide {
        shares: usize,
    },
    /// `matmul_sm90.cu`'s tile of 128 rows and so many columns.
    Sm90(usize),
}

impl Kernel {
    fn source(self) -> Source {
        match self {
            Self::F32 => Source::MatmulF32,
            Self::Tile(_) | Self::Wide { .. } => Source::Matmul,
            Self::Sm90(_) => Source::MatmulSm90,
        }
    }
}

impl<'a> Product<'a> {
    /// Without anything before and after.
    pub(crate) fn new(x: Span, rows: usize, dense: &'a Dense, out: Span) -> Self {
        Self {
            x,
            rows,
            dense,
            out,
            activation: Activation::None,
            gates: None,
            residual: None,
            fixed_order: false,
        }
    }

    /// Adds its launch. `out` may be longer than it has to be, and so may all others.
    ///
    /// # Errors
    /// It has gates and an activation, or the grid is larger than any card takes.
    ///
    /// # Panics
    /// A span is shorter than its shape, or the output is an input's.
    pub(crate) fn push(&self, target: &Target, program: &mut Program) -> Result<()> {
        if self.gates.is_some() && self.activation != Activation::None {
            bail!(
                "expected no activation after gated inputs, got {:?}",
                self.activation
            )
        }
        if self.rows == 0 {
            return Ok(());
        }
        let kernel = self.kernel(target);
        let (name, grid) = self.launch(kernel, target);
        let source = (kernel.source(), name);
        let (m, n, k) = (self.rows, self.dense.outputs, self.dense.inputs);
        let size = target.element.size();
        let [x, out] =
            [(self.x, k), (self.out, n)].map(|(span, width)| span.first(m * width * size));
        let residual = self.residual.map(|residual| residual.first(m * n * size));
        let apart =
            out.place != x.place && residual.is_none_or(|residual| residual.place != out.place);
        assert!(apart, "a product's output overlaps none of its inputs");
        let Dense { weight, bias, .. } = *self.dense;
        if let Kernel::Sm90(columns) = kernel {
            let x = Map::new(x, [m, k], [128, 64]);
            let w = Map::new(weight, [n, k], [columns as u32, 64]);
            let panel = if columns % 64 == 0 { 64 } else { 32 };
            let rows = |span| Map::new(span, [m, n], [16, panel]);
            let arguments = [
                Argument::ReadMap(x),
                Argument::ReadMap(w),
                Argument::WriteMap(rows(out)),
                bias.read(),
                m.into(),
                n.into(),
                k.into(),
            ];
            // SAFETY: the arguments are those that the head of `matmul_sm90.cu` lists, of the shapes that it states.
            return unsafe {
                match residual {
                    None => program.push(source, grid, arguments),
                    Some(residual) => {
                        let [x, w, out, bias, m, n, k] = arguments;
                        let residual = Argument::ReadMap(rows(residual));
                        program.push(source, grid, [x, w, out, bias, m, n, k, residual])
                    }
                }
            };
        }
        let (gates, rows_per_image) = match self.gates {
            None => (Argument::Null, 1),
            Some(gates) => {
                let images = m.div_ceil(gates.rows_per_image);
                let values = gates.values.first(images * k * size);
                (values.read(), gates.rows_per_image)
            }
        };
        let arguments = [
            x.read(),
            weight.read(),
            bias.read(),
            gates,
            residual.into(),
            out.write(),
            m.into(),
            n.into(),
            k.into(),
            rows_per_image.into(),
            (self.activation as usize).into(),
        ];
        // SAFETY: as above, for `matmul.cu` and `matmul_f32.cu`.
        unsafe { program.push(source, grid, arguments) }
    }

    fn kernel(&self, target: &Target) -> Kernel {
        let (m, n, k) = (self.rows, self.dense.outputs, self.dense.inputs);
        if target.element == Element::F32 {
            return Kernel::F32;
        }
        let end = match (self.activation, self.residual) {
            (Activation::None, _) => true,
            (Activation::Gelu | Activation::GeluTanh, residual) => residual.is_none(),
            _ => false,
        };
        let whole = n.is_multiple_of(64) && k.is_multiple_of(64);
        let plain = self.gates.is_none();
        let fits = plain && end && whole && !self.fixed_order;
        if target.capability == (9, 0) && m > MANY_ROWS && fits {
            return Kernel::Sm90(sm90_columns(m, n, target.processors));
        }
        match plain {
            true => plain_kernel([m, n, k], target.processors),
            false => Kernel::Tile(gated_tile([m, n], target.processors)),
        }
    }

    fn launch(&self, kernel: Kernel, target: &Target) -> (String, Grid) {
        let (m, n, k) = (self.rows, self.dense.outputs, self.dense.inputs);
        let gated = if self.gates.is_some() { "_gated" } else { "" };
        match kernel {
            Kernel::F32 => {
                let grid = Grid {
                    blocks: [n.div_ceil(64), m.div_ceil(64).min(65_535), 1],
                    threads: 256,
                    shared: 0,
                };
                ("matmul_f32".into(), grid)
            }
            Kernel::Tile([rows, columns]) => {
                let (threads, shared) = block(rows, columns);
                let grid = Grid {
                    blocks: [m.div_ceil(rows) * n.div_ceil(columns), 1, 1],
                    threads,
                    shared,
                };
                (format!("matmul_f16_{rows}x{columns}{gated}"), grid)
            }
            Kernel::Wide { shares } => {
                let grid = Grid {
                    blocks: [m.div_ceil(128), shares, 1],
                    threads: 128,
                    shared: 14_336 + 448 * (k.next_multiple_of(16) as u32 + 8),
                };
                ("matmul_f16_wide_128x48".into(), grid)
            }
            Kernel::Sm90(columns) => {
                let end = match (self.activation, self.residual) {
                    (Activation::Gelu, _) => "gelu",
                    (Activation::GeluTanh, _) => "gelu_tanh",
                    (_, Some(_)) => "residual",
                    (_, None) => "bias",
                };
                let tiles = m.div_ceil(128) * n.div_ceil(columns);
                let grid = Grid {
                    blocks: [tiles.min(target.processors), 1, 1],
                    threads: 384,
                    shared: if columns == 96 { 218_368 } else { 230_656 },
                };
                (format!("matmul_f16_sm90_{end}_n{columns}"), grid)
            }
        }
    }
}

/// The columns for which the turns that the processors take at tiles cost least; of equals the most.
fn sm90_columns(m: usize, n: usize, processors: usize) -> usize {
    let cost = |columns: &usize| {
        let tiles = m.div_ceil(128) * n.div_ceil(*columns);
        tiles.div_ceil(processors) * (columns + 24)
    };
    // `min_by_key` takes the first of equals.
    let widths = [256, 128, 96];
    widths.into_iter().min_by_key(cost).unwrap_or(widths[0])
}

/// For inputs without gates.
fn plain_kernel([m, n, k]: [usize; 3], processors: usize) -> Kernel {
    const FEW_ROWS: usize = 64;
    let row_blocks = m.div_ceil(128);
    // Expansions of an image network: their input is read once, and kept while the weights go past it.
    let expands = k > 16 && k < 200 && n >= 4 * k;
    if expands && k <= WIDE_INPUTS && 2 * row_blocks >= processors {
        let shares = (2 * processors).div_ceil(row_blocks);
        return Kernel::Wide {
            shares: shares.min(n.div_ceil(48)),
        };
    }
    if m <= FEW_ROWS {
        return Kernel::Tile([16, 16]);
    }
    let tiles: &[[usize; 2]] = match n {
        ..=16 => &[[128, 16], [32, 16], [16, 16]],
        17..=32 => &[[128, 32], [64, 32], [16, 16]],
        33..=48 => &[[128, 48], [32, 16], [16, 16]],
        _ if k <= 48 => &[[128, 48], [128, 32], [32, 32]],
        _ => &[[64, 128], [64, 64], [32, 64], [32, 32], [32, 16], [16, 16]],
    };
    Kernel::Tile(filling(tiles, [m, n], 3 * processors / 4))
}

/// For gated inputs: the projections of an image network.
fn gated_tile([m, n]: [usize; 2], processors: usize) -> [usize; 2] {
    let tiles: &[[usize; 2]] = match n {
        ..=16 => &[[128, 16], [32, 16], [16, 16]],
        17..=32 => &[[128, 32], [64, 32], [16, 32], [16, 16]],
        33..=48 => &[[128, 48], [32, 16], [16, 16]],
        49..=88 => &[[128, 88], [64, 64], [16, 32], [16, 16]],
        _ => &[[64, 128], [64, 64], [16, 32], [16, 16]],
    };
    filling(tiles, [m, n], processors / 2)
}

/// The first tile of which there are enough, else the last.
fn filling(tiles: &[[usize; 2]], [m, n]: [usize; 2], enough: usize) -> [usize; 2] {
    let fills = |[rows, columns]: &[usize; 2]| m.div_ceil(*rows) * n.div_ceil(*columns) >= enough;
    let last = tiles[tiles.len() - 1];
    tiles.iter().copied().find(fills).unwrap_or(last)
}

/// Threads and dynamic shared memory of a tile, as the head of `matmul.cu` has them.
fn block(rows: usize, columns: usize) -> (u32, u32) {
    match (rows, columns) {
        (128, 128) => (256, 98_304),
        (128, 88) => (128, 55_296),
        (128, 48) => (128, 45_056),
        (128, 32) => (128, 40_960),
        (128, 16) => (128, 36_864),
        (64, 128) => (128, 73_728),
        (64, 64) => (128, 65_536),
        (64, 32) => (128, 98_304),
        (32, 64) => (128, 98_304),
        (32, 32) => (128, 65_536),
        (32, 16) => (64, 73_728),
        (16, 32) => (128, 61_440),
        (16, 16) => (64, 65_536),
        _ => unreachable!("the tiles that are chosen from are in this table"),
    }
}
