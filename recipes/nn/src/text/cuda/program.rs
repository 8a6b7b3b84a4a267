//! A pass: what it keeps where, and its launches.

use std::ops::Range;

use candle_core::Result;
use half::f16;

use super::{
    model::{Last, Model, Norm},
    shape::Shape,
    tiles::Tile,
};
use crate::{
    activation::Activation,
    cuda::{Argument, Element, Grid, Layout, Program, Source, Span, Target},
    matmul::cuda::{Dense, Product},
    text::classifier::Pooling,
};

/// Threads of a block of most kernels here.
const THREADS: u32 = 128;
/// Rows that a block of them has: one for each warp.
const ROWS_OF_BLOCK: usize = 4;
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
    /// `[tokens, hidden]`: what comes out of its first half.
    attended: Span,
    /// `[tokens, 3 * hidden]` and `[tokens, hidden]`, or `[tokens, intermediate]`: the insides of the two halves, which
    /// never live at the same time.
    inner: Span,
    logits: Span,
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
        let (x, attended) = (values(self.hidden), values(self.hidden));
        let inner = values(self.intermediate.max(4 * self.hidden));
        let rows = match self.pooling {
            Pooling::Tokens => shape.tokens,
            Pooling::First => shape.sequences,
        };
        let logits = layout.place(rows * self.logits_bytes(element));
        Plan {
            layout,
            input,
            ids,
            offsets,
            tiles,
            x,
            attended,
            inner,
            logits,
        }
    }

    /// The logits of so many rows.
    pub(super) fn output(&self, plan: &Plan, rows: usize, element: Element) -> Span {
        plan.logits.first(rows * self.logits_bytes(element))
    }

    /// Of a row.
    fn logits_bytes(&self, element: Element) -> usize {
        match &self.last {
            Last::Narrow { .. } => self.labels * Element::F32.size(),
            Last::Wide(dense) => dense.outputs() * element.size(),
        }
    }

    /// An output as numbers, `[rows, labels]`.
    pub(super) fn logits(&self, bytes: &[u8], element: Element) -> Vec<f32> {
        let wide = match &self.last {
            Last::Wide(dense) => dense.outputs(),
            Last::Narrow { .. } => self.labels,
        };
        let values: Vec<f32> = match (&self.last, element) {
            (Last::Narrow { .. }, _) | (_, Element::F32) => {
                let (words, _) = bytes.as_chunks();
                words.iter().copied().map(f32::from_le_bytes).collect()
            }
            (Last::Wide(_), Element::F16) => {
                let (words, _) = bytes.as_chunks();
                let halves = words.iter().copied().map(f16::from_le_bytes);
                halves.map(f16::to_f32).collect()
            }
        };
        match wide == self.labels {
            true => values,
            false => (values.chunks_exact(wide))
                .flat_map(|row| &row[..self.labels])
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
        let (x, attended) = (plan.x, plan.attended);
        let mut rows = shape.tokens;
        for (i, layer) in self.layers.iter().enumerate() {
            steps.dense(x, shape.tokens, &layer.qkv, Activation::None, qkv)?;
            steps.attend(shape, qkv, plan.tiles, context)?;
            let (mut from, mut residual) = (context, x);
            if i + 1 == self.layers.len() && self.pooling == Pooling::First {
                // What the other tokens would become, nobody reads. Queries and keys are not needed any more.
                rows = shape.sequences;
                from = qkv.part(rows * row, rows * row);
                residual = qkv.first(rows * row);
                steps.first_tokens(x, plan.offsets, rows, residual)?;
                steps.first_tokens(context, plan.offsets, rows, from)?;
            }
            let dense = &layer.attention_output;
            steps.dense(from, rows, dense, Activation::None, attended)?;
            steps.norm(attended, residual, &layer.attention_norm, rows)?;
            let wide = plan.inner;
            steps.dense(attended, rows, &layer.intermediate, Activation::Gelu, wide)?;
            steps.dense(wide, rows, &layer.output, Activation::None, x)?;
            steps.norm(x, attended, &layer.output_norm, rows)?;
        }
        if self.layers.is_empty() && self.pooling == Pooling::First {
            rows = shape.sequences;
            steps.first_tokens(x, plan.offsets, rows, qkv)?;
            steps.end(rows, qkv, attended, plan.logits)?;
        } else {
            steps.end(rows, x, attended, plan.logits)?;
        }
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
        kernel: String,
        grid: Grid,
        arguments: [Argument; N],
    ) -> Result<()> {
        // SAFETY: each caller passes what the kernel's signature in `text.cu` says, with spans of the sizes that the
        // file's head states for the numbers among the arguments.
        unsafe { self.program.push((Source::Text, kernel), grid, arguments) }
    }

    /// A kernel that holds rows of the hidden width in registers.
    fn row_kernel(&self, name: &str) -> String {
        let widths = [256, 512, 768, 1024];
        let fits = |width: &usize| *width >= self.model.hidden;
        let width = widths.into_iter().find(fits).unwrap_or(widths[3]);
        format!("{name}_{}_h{width}", self.target.element.name())
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
            model.norm.weight.read(),
            model.norm.bias.read(),
            plan.x.write(),
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
        product.push(self.target, &mut self.program)
    }

    fn attend(&mut self, shape: Shape, qkv: Span, tiles: Span, context: Span) -> Result<()> {
        let (heads, dim) = (self.model.heads, self.model.head_features());
        let grid = Grid::row(heads * shape.tiles, THREADS);
        let element = self.target.element;
        let [qkv, tiles, context] = [qkv.read(), tiles.read(), context.write()];
        match self.model.shares_tiles(element) {
            true => {
                let kernel = format!("attention_f16_d{dim}");
                self.push(kernel, grid, [qkv, tiles, context, heads.into()])
            }
            false => {
                let kernel = format!("attention_{}", element.name());
                let arguments = [qkv, tiles, context, heads.into(), dim.into()];
                self.push(kernel, grid, arguments)
            }
        }
    }

    /// `x = LayerNorm(x + residual)`.
    fn norm(&mut self, x: Span, residual: Span, norm: &Norm, rows: usize) -> Result<()> {
        let bytes = self.bytes(rows);
        let arguments = [
            x.first(bytes).read(),
            residual.first(bytes).read(),
            // The products before it add their bias.
            Argument::Null,
            norm.weight.read(),
            norm.bias.read(),
            x.first(bytes).write(),
            rows.into(),
            self.model.hidden.into(),
            self.model.eps.into(),
        ];
        let kernel = self.row_kernel("residual_layer_norm");
        self.push(kernel, Self::row_grid(rows), arguments)
    }

    /// The first row of each sequence.
    fn first_tokens(&mut self, x: Span, offsets: Span, sequences: usize, out: Span) -> Result<()> {
        let arguments = [
            x.read(),
            offsets.read(),
            out.first(self.bytes(sequences)).write(),
            sequences.into(),
            self.model.hidden.into(),
        ];
        let kernel = format!("first_tokens_{}", self.target.element.name());
        self.push(kernel, Self::row_grid(sequences), arguments)
    }

    /// The head, which goes from `x` to `spare` and back.
    fn end(&mut self, rows: usize, x: Span, spare: Span, logits: Span) -> Result<()> {
        let model = self.model;
        let (mut from, mut to) = (x, spare);
        let mut inputs = model.hidden;
        for (dense, activation) in &model.head {
            self.dense(from, rows, dense, *activation, to)?;
            (from, to) = (to, from);
            inputs = dense.outputs();
        }
        match &model.last {
            Last::Wide(dense) => self.dense(from, rows, dense, Activation::None, logits),
            Last::Narrow { weight, bias } => {
                let bytes = rows * inputs * self.target.element.size();
                let arguments = [
                    from.first(bytes).read(),
                    weight.read(),
                    bias.read(),
                    logits.write(),
                    Argument::Null,
                    Argument::Null,
                    Argument::Null,
                    rows.into(),
                    inputs.into(),
                    model.labels.into(),
                ];
                let kernel = format!("token_head_{}", self.target.element.name());
                let grid = Grid::row(rows.div_ceil(HEAD_ROWS), HEAD_THREADS);
                self.push(kernel, grid, arguments)
            }
        }
    }
}
