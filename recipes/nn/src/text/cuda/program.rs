//! A pass: what it keeps where, and its launches.

use std::ops::Range;

use candle_core::Result;
use half::f16;

use super::{
    model::{Last, LayerNorm, Model},
    shape::Shape,
    tiles::Tile,
};
use crate::{
    activation::Activation,
    cuda::{Argument, Element, Grid, Layout, Program, Source, Span, Target},
    matmul::cuda::{Dense, Product},
    ops::convolution::cuda::Rows,
    text::{Norm, Pooling},
};

/// Threads of a block of most kernels here.
const THREADS: u32 = 128;
/// Rows that a block of them has: one for each warp.
const ROWS_OF_BLOCK: usize = 4;
/// Columns of a block that averages.
const MEAN_COLUMNS: usize = 256;
/// Threads and rows of a block of the last layer's kernel.
const HEAD_THREADS: u32 = 256;
const HEAD_ROWS: usize = 16;

/// What a pass keeps where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) layout: Layout,
    /// Ids, offsets and tiles.
    pub(super) input: Span,
    ids: Span,
    offsets: Span,
    tiles: Span,
    /// `[tokens, hidden]`: what goes into a layer, and what comes out.
    x: Span,
    /// `[tokens, hidden]`: what is added to a block's output, or what comes out of a layer's first half.
    other: Span,
    /// `[tokens, 3 * hidden]` and `[tokens, hidden]`, or `[tokens, intermediate]`: the insides of the two halves, which
    /// never live at the same time.
    inner: Span,
    output: Span,
}

impl Plan {
    /// Where in the input ids, offsets and tiles are.
    pub(super) fn input_parts(&self, shape: Shape) -> [Range<usize>; 3] {
        let mut layout = Layout::default();
        input(&mut layout, shape).map(|span| {
            let start = self.input.distance(span);
            start..start + span.bytes
        })
    }
}

fn input(layout: &mut Layout, shape: Shape) -> [Span; 3] {
    [
        layout.place(shape.tokens * size_of::<u32>()),
        layout.place((shape.sequences + 1) * size_of::<i32>()),
        layout.place(shape.tiles * size_of::<Tile>()),
    ]
}

impl Model {
    /// Lays out the memory of a pass.
    pub(super) fn plan(&self, shape: Shape, element: Element) -> Plan {
        let mut layout = Layout::default();
        let [ids, offsets, tiles] = input(&mut layout, shape);
        let input = layout.since(Layout::default());
        let mut values = |features: usize| layout.place(shape.tokens * features * element.size());
        let (x, other) = (values(self.hidden), values(self.hidden));
        let inner = values(self.intermediate.max(4 * self.hidden));
        let rows = match self.pooling {
            Pooling::Tokens => shape.tokens,
            Pooling::First | Pooling::Last | Pooling::Mean => shape.sequences,
        };
        let output = layout.place(rows * self.row_bytes(element));
        Plan {
            layout,
            input,
            ids,
            offsets,
            tiles,
            x,
            other,
            inner,
            output,
        }
    }

    /// So many rows of the output.
    pub(super) fn output(&self, plan: &Plan, rows: usize, element: Element) -> Span {
        plan.output.first(rows * self.row_bytes(element))
    }

    /// Of a row of the output.
    fn row_bytes(&self, element: Element) -> usize {
        match &self.last {
            Last::Features => self.outputs * element.size(),
            Last::Narrow { .. } => self.outputs * Element::F32.size(),
            Last::Wide(dense) => dense.outputs() * element.size(),
        }
    }

    /// An output as numbers, `[rows, outputs]`.
    pub(super) fn values(&self, bytes: &[u8], element: Element) -> Vec<f32> {
        let wide = match &self.last {
            Last::Wide(dense) => dense.outputs(),
            Last::Features | Last::Narrow { .. } => self.outputs,
        };
        let values: Vec<f32> = match (&self.last, element) {
            (Last::Narrow { .. }, _) | (_, Element::F32) => {
                let (words, _) = bytes.as_chunks();
                words.iter().copied().map(f32::from_le_bytes).collect()
            }
            (Last::Wide(_) | Last::Features, Element::F16) => {
                let (words, _) = bytes.as_chunks();
                let halves = words.iter().copied().map(f16::from_le_bytes);
                halves.map(f16::to_f32).collect()
            }
        };
        match wide == self.outputs {
            true => values,
            false => (values.chunks_exact(wide))
                .flat_map(|row| &row[..self.outputs])
                .copied()
                .collect(),
        }
    }

    /// The launches of a pass.
    ///
    /// # Errors
    /// The batch is larger than any launch takes.
    pub(super) fn program(&self, shape: Shape, plan: &Plan, target: &Target) -> Result<Program> {
        let mut steps = Steps {
            model: self,
            target,
            program: Program::default(),
        };
        let row = self.hidden * target.element.size();
        let (qkv, context) = (
            plan.inner.first(shape.tokens * 3 * row),
            plan.inner.part(shape.tokens * 3 * row, shape.tokens * row),
        );
        steps.embed(shape, plan)?;
        let post = self.norm == Norm::Post;
        let picked = matches!(self.pooling, Pooling::First | Pooling::Last);
        let (mut x, mut other) = (plan.x, plan.other);
        let mut rows = shape.tokens;
        for (i, layer) in self.layers.iter().enumerate() {
            let last = i + 1 == self.layers.len();
            steps.dense(x, rows, &layer.qkv, Activation::None, qkv)?;
            steps.attend(shape, qkv, plan.tiles, context)?;
            // What is added to a block's output is the block's input, or what that was before its norm.
            let (mut out, mut added) = if post { (other, x) } else { (x, other) };
            let mut from = context;
            if last && picked {
                // What the other tokens would become, nobody reads. Queries and keys are not needed any more.
                rows = shape.sequences;
                from = qkv.first(rows * row);
                steps.pick(added, plan.offsets, rows, out)?;
                steps.pick(context, plan.offsets, rows, from)?;
                (out, added) = (added, out);
            }
            let dense = &layer.attention_output;
            steps.dense(from, rows, dense, Activation::None, out)?;
            steps.norm(out, added, &layer.attention_norm, rows, out)?;
            let wide = plan.inner;
            steps.dense(out, rows, &layer.intermediate, self.activation, wide)?;
            if post {
                (out, added) = (added, out);
            }
            steps.dense(wide, rows, &layer.output, Activation::None, out)?;
            let done = last && self.pooling != Pooling::Mean && matches!(self.last, Last::Features);
            let to = if done { plan.output } else { out };
            steps.norm(out, added, &layer.output_norm, rows, to)?;
            (x, other) = (out, added);
        }
        if self.pooling == Pooling::Mean {
            rows = shape.sequences;
            let to = match self.last {
                Last::Features => plan.output,
                _ => other,
            };
            steps.mean(x, plan.offsets, rows, to)?;
            (x, other) = (other, x);
        }
        steps.end(rows, x, other, plan.output)?;
        Ok(steps.program)
    }
}

/// The program as it grows.
struct Steps<'a> {
    model: &'a Model,
    target: &'a Target,
    program: Program,
}

impl Steps<'_> {
    fn push<const N: usize>(
        &mut self,
        kernel: (Source, String),
        grid: Grid,
        arguments: [Argument; N],
    ) -> Result<()> {
        // SAFETY: each caller passes what the kernel's signature in its source says, with spans of the sizes that the
        // file's head states for the numbers among the arguments.
        unsafe { self.program.push(kernel, grid, arguments) }
    }

    /// A kernel that holds rows of the hidden width in registers.
    fn row_kernel(&self, name: &str) -> (Source, String) {
        // Of those that there are; `Model` refuses wider ones.
        let widths = [256, 512, 768, 1024, 1280];
        let fits = |width: &usize| *width >= self.model.hidden;
        let width = widths.into_iter().find(fits).unwrap_or(1792);
        let name = format!("{name}_{}_h{width}", self.target.element.name());
        (Source::LayerNorm, name)
    }

    fn row_grid(rows: usize) -> Grid {
        Grid::row(rows.div_ceil(ROWS_OF_BLOCK), THREADS)
    }

    /// Bytes of so many rows of the hidden width.
    fn bytes(&self, rows: usize) -> usize {
        rows * self.model.hidden * self.target.element.size()
    }

    fn embed(&mut self, shape: Shape, plan: &Plan) -> Result<()> {
        let model = self.model;
        let arguments = [
            plan.ids.read(),
            plan.offsets.read(),
            model.words.read(),
            model.positions.read(),
            model.first_norm.weight.read(),
            model.first_norm.bias.read(),
            plan.x.write(),
            self.sums(plan.other),
            shape.tokens.into(),
            shape.sequences.into(),
            model.hidden.into(),
            model.eps.into(),
        ];
        let kernel = self.row_kernel("embeddings");
        self.push(kernel, Self::row_grid(shape.tokens), arguments)
    }

    fn dense(
        &mut self,
        x: Span,
        rows: usize,
        dense: &Dense,
        activation: Activation,
        out: Span,
    ) -> Result<()> {
        let product = Product {
            activation,
            ..Product::new(x, rows, dense, out)
        };
        match Rows::of(product, self.target) {
            Some(rows) => rows.push(self.target, &mut self.program),
            None => product.push(self.target, &mut self.program),
        }
    }

    fn attend(&mut self, shape: Shape, qkv: Span, tiles: Span, context: Span) -> Result<()> {
        let (heads, dim) = (self.model.heads, self.model.head_features());
        let grid = Grid::row(heads * shape.tiles, THREADS);
        let element = self.target.element;
        let [qkv, tiles, context] = [qkv.read(), tiles.read(), context.write()];
        match self.model.shares_tiles(element) {
            true => {
                let causal = if self.model.causal { "_causal" } else { "" };
                let kernel = format!("attention_f16_d{dim}{causal}");
                let kernel = (Source::Attention, kernel);
                self.push(kernel, grid, [qkv, tiles, context, heads.into()])
            }
            false => {
                let kernel = format!("attention_{}", element.name());
                let kernel = (Source::AttentionPlain, kernel);
                let causal = usize::from(self.model.causal).into();
                let arguments = [qkv, tiles, context, heads.into(), dim.into(), causal];
                self.push(kernel, grid, arguments)
            }
        }
    }

    /// Where sums before a LayerNorm go, if they are added to what comes out of the next block.
    fn sums(&self, to: Span) -> Argument {
        match self.model.norm {
            Norm::Pre => to.write(),
            Norm::Post => Argument::Null,
        }
    }

    /// `out = LayerNorm(x + residual)`, and where norms stand before blocks `residual = x + residual`.
    fn norm(
        &mut self,
        x: Span,
        residual: Span,
        norm: &LayerNorm,
        rows: usize,
        out: Span,
    ) -> Result<()> {
        let bytes = self.bytes(rows);
        let [x, residual, out] = [x, residual, out].map(|span| span.first(bytes));
        let arguments = [
            x.read(),
            residual.read(),
            norm.weight.read(),
            norm.bias.read(),
            out.write(),
            self.sums(residual),
            rows.into(),
            self.model.hidden.into(),
            self.model.eps.into(),
        ];
        let kernel = self.row_kernel("residual_layer_norm");
        self.push(kernel, Self::row_grid(rows), arguments)
    }

    /// The first row of each sequence, or the last.
    fn pick(&mut self, x: Span, offsets: Span, sequences: usize, out: Span) -> Result<()> {
        let arguments = [
            x.read(),
            offsets.read(),
            out.first(self.bytes(sequences)).write(),
            sequences.into(),
            self.model.hidden.into(),
            usize::from(self.model.pooling == Pooling::Last).into(),
        ];
        let kernel = format!("pick_tokens_{}", self.target.element.name());
        self.push(
            (Source::Pooling, kernel),
            Self::row_grid(sequences),
            arguments,
        )
    }

    /// The mean of each sequence's rows.
    fn mean(&mut self, x: Span, offsets: Span, sequences: usize, out: Span) -> Result<()> {
        let arguments = [
            x.read(),
            offsets.read(),
            out.first(self.bytes(sequences)).write(),
            self.model.hidden.into(),
        ];
        let kernel = format!("mean_tokens_{}", self.target.element.name());
        let grid = Grid {
            blocks: [sequences, self.model.hidden.div_ceil(MEAN_COLUMNS), 1],
            threads: THREADS,
            shared: 0,
        };
        self.push((Source::Pooling, kernel), grid, arguments)
    }

    /// The head, which goes from `x` to `spare` and back, and in the end to the output.
    fn end(&mut self, rows: usize, x: Span, spare: Span, output: Span) -> Result<()> {
        let model = self.model;
        let (mut from, mut to) = (x, spare);
        let mut inputs = model.hidden;
        for (dense, activation) in &model.head {
            self.dense(from, rows, dense, *activation, to)?;
            (from, to) = (to, from);
            inputs = dense.outputs();
        }
        match &model.last {
            Last::Features => Ok(()),
            Last::Wide(dense) => self.dense(from, rows, dense, Activation::None, output),
            Last::Narrow { weight, bias } => {
                let bytes = rows * inputs * self.target.element.size();
                let arguments = [
                    from.first(bytes).read(),
                    weight.read(),
                    bias.read(),
                    output.write(),
                    rows.into(),
                    inputs.into(),
                    model.outputs.into(),
                ];
                let kernel = format!("token_head_{}", self.target.element.name());
                let grid = Grid::row(rows.div_ceil(HEAD_ROWS), HEAD_THREADS);
                self.push((Source::TokenHead, kernel), grid, arguments)
            }
        }
    }
}
