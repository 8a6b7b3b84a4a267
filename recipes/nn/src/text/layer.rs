//! One layer of a transformer, in memory that is kept from pass to pass.

use candle_core::Result;

use super::{
    config::{LayerTensors, Norm, TransformerConfig, WeightAndBias},
    norm::{ResidualNorm, residual_layer_norm},
};
use crate::{
    activation::Activation,
    aligned::Aligned,
    host,
    matmul::{Matrix, Product},
    ops::attention::{self, Tokens},
    simd::{Level, Precision},
};

/// A layer's weights.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    qkv: Dense,
    attention_output: Matrix,
    attention_end: ResidualNorm,
    intermediate: Dense,
    activation: Activation,
    output: Matrix,
    end: ResidualNorm,
    norm: Norm,
}

/// A matrix and its bias.
#[derive(Clone, Debug)]
struct Dense {
    matrix: Matrix,
    bias: Vec<f32>,
}

/// What a pass computes in.
#[derive(Default)]
pub(super) struct Workspace {
    /// `[tokens, hidden]`: what goes into a layer, and what comes out.
    pub(super) x: Aligned,
    /// `[tokens, hidden]`: what is added to a block's output where norms stand before blocks; otherwise what comes out of a
    /// layer's first half.
    pub(super) other: Aligned,
    /// `[tokens, 3 * hidden]`.
    qkv: Aligned,
    /// `[tokens, hidden]`.
    context: Aligned,
    /// `[tokens, intermediate]`.
    wide: Aligned,
}

impl Layer {
    pub(super) fn load(
        config: &TransformerConfig,
        precision: Precision,
        tensors: LayerTensors,
    ) -> Result<Self> {
        let dense = |(weight, bias): &WeightAndBias| {
            Result::Ok(Dense {
                matrix: Matrix::new(weight, precision)?,
                bias: host::to_vec(bias)?,
            })
        };
        let end = |(_, bias): &WeightAndBias, (weight, shift): &WeightAndBias| {
            ResidualNorm::new(bias, weight, shift, config.layer_norm_eps)
        };
        Ok(Self {
            qkv: dense(&tensors.qkv)?,
            attention_output: Matrix::new(&tensors.attention_output.0, precision)?,
            attention_end: end(&tensors.attention_output, &tensors.attention_norm)?,
            intermediate: dense(&tensors.intermediate)?,
            activation: config.activation,
            output: Matrix::new(&tensors.output.0, precision)?,
            end: end(&tensors.output, &tensors.output_norm)?,
            norm: config.norm,
        })
    }

    /// From `x` to `context`.
    pub(super) fn attend(&self, level: Level, tokens: Tokens<'_>, workspace: &mut Workspace) {
        let rows = tokens.offsets.last().copied().unwrap_or(0);
        let width = self.output.outputs();
        let qkv = workspace.qkv.at_least(rows * 3 * width);
        let x = &workspace.x.as_slice()[..rows * width];
        self.qkv.run(level, x, Activation::None, qkv);
        let context = workspace.context.at_least(rows * width);
        attention::forward(level, qkv, tokens, None, context);
    }

    /// Leaves of what [`Self::feed_forward`] reads these rows alone, which are in order.
    pub(super) fn pick(&self, rows: &[usize], workspace: &mut Workspace) {
        let width = self.output.outputs();
        let added = match self.norm {
            Norm::Pre => &mut workspace.other,
            Norm::Post => &mut workspace.x,
        };
        for values in [added, &mut workspace.context] {
            let values = values.as_mut_slice();
            for (to, &from) in rows.iter().enumerate() {
                values.copy_within(from * width..(from + 1) * width, to * width);
            }
        }
    }

    /// From the first `rows` of `context`, and of what is added, to those of `x`.
    pub(super) fn feed_forward(&self, level: Level, rows: usize, workspace: &mut Workspace) {
        let width = self.output.outputs();
        let context = workspace.context.at_least(rows * width);
        let x = workspace.x.at_least(rows * width);
        let other = workspace.other.at_least(rows * width);
        // What is added to a block's output is the block's input, or what that was before its norm.
        let (out, added) = match self.norm {
            Norm::Pre => (x, other),
            Norm::Post => (other, x),
        };
        Product::new(context, rows, &self.attention_output).compute_into(level, out);
        residual_layer_norm(level, out, added, &self.attention_end, self.norm);
        let wide = workspace.wide.at_least(rows * self.output.inputs());
        self.intermediate.run(level, out, self.activation, wide);
        let (out, added) = match self.norm {
            Norm::Pre => (out, added),
            Norm::Post => (added, out),
        };
        Product::new(wide, rows, &self.output).compute_into(level, out);
        residual_layer_norm(level, out, added, &self.end, self.norm);
    }
}

impl Dense {
    fn run(&self, level: Level, x: &[f32], activation: Activation, out: &mut [f32]) {
        let product = Product {
            bias: Some(&self.bias),
            activation,
            ..Product::new(x, x.len() / self.matrix.inputs(), &self.matrix)
        };
        product.compute_into(level, out);
    }
}
