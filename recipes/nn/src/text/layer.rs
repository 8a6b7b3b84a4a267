//! One layer of the encoder, in memory that is kept from pass to pass.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{
    attention::attention_cpu,
    encoder::{EncoderConfig, TensorNames, layer_norm},
    norm::{ResidualNorm, residual_layer_norm},
};
use crate::{
    activation::Activation,
    aligned::Aligned,
    host,
    matmul::{Matrix, Product},
    simd::{Level, Precision},
};

/// A layer's weights.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    qkv: Dense,
    attention_output: Matrix,
    attention_end: ResidualNorm,
    intermediate: Dense,
    output: Matrix,
    end: ResidualNorm,
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
    /// `[tokens, 3 * hidden]`.
    qkv: Aligned,
    /// `[tokens, hidden]`.
    context: Aligned,
    /// `[tokens, hidden]`.
    attended: Aligned,
    /// `[tokens, intermediate]`.
    wide: Aligned,
}

/// The tokens of a pass.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    /// Where each sequence starts, and at the end the number of tokens.
    pub(super) offsets: &'a [usize],
    pub(super) heads: usize,
}

impl Layer {
    pub(super) fn load(
        config: &EncoderConfig,
        names: &TensorNames,
        precision: Precision,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let (hidden, wide) = (config.hidden, config.intermediate);
        let matrix = |weight: &Tensor| Matrix::new(weight, precision);
        let [q, k, v] = names
            .qkv
            .map(|name| weight_and_bias(&vb.pp(name), hidden, hidden));
        let ((q, q_bias), (k, k_bias), (v, v_bias)) = (q?, k?, v?);
        let end = |bias: &Tensor, norm: &str| {
            let (weight, norm_bias) = layer_norm(&vb.pp(norm), hidden)?;
            ResidualNorm::new(bias, &weight, &norm_bias, config.layer_norm_eps)
        };
        let (attention, attention_bias) =
            weight_and_bias(&vb.pp(names.attention_output), hidden, hidden)?;
        let (intermediate, intermediate_bias) =
            weight_and_bias(&vb.pp(names.intermediate), hidden, wide)?;
        let (output, output_bias) = weight_and_bias(&vb.pp(names.output), wide, hidden)?;
        Ok(Self {
            qkv: Dense {
                matrix: matrix(&Tensor::cat(&[q, k, v], 0)?)?,
                bias: host::to_vec(&Tensor::cat(&[q_bias, k_bias, v_bias], 0)?)?,
            },
            attention_output: matrix(&attention)?,
            attention_end: end(&attention_bias, names.attention_norm)?,
            intermediate: Dense {
                matrix: matrix(&intermediate)?,
                bias: host::to_vec(&intermediate_bias)?,
            },
            output: matrix(&output)?,
            end: end(&output_bias, names.output_norm)?,
        })
    }

    /// Turns `workspace.x` into the layer's output.
    pub(super) fn forward(&self, level: Level, tokens: Tokens<'_>, workspace: &mut Workspace) {
        self.attend(level, tokens, workspace);
        let rows = tokens.offsets.last().copied().unwrap_or(0);
        self.feed_forward(level, rows, workspace);
    }

    /// As [`Self::forward`], but of each sequence's first token alone: `[sequences, hidden]`. What the others would have
    /// become is not computed where nobody reads it.
    pub(super) fn forward_first(
        &self,
        level: Level,
        tokens: Tokens<'_>,
        workspace: &mut Workspace,
    ) {
        self.attend(level, tokens, workspace);
        let width = self.output.outputs();
        let sequences = tokens.offsets.len().saturating_sub(1);
        for values in [&mut workspace.x, &mut workspace.context] {
            let values = values.as_mut_slice();
            for (sequence, &first) in tokens.offsets[..sequences].iter().enumerate() {
                values.copy_within(first * width..(first + 1) * width, sequence * width);
            }
        }
        self.feed_forward(level, sequences, workspace);
    }

    /// From `x` to `context`.
    fn attend(&self, level: Level, tokens: Tokens<'_>, workspace: &mut Workspace) {
        let rows = tokens.offsets.last().copied().unwrap_or(0);
        let width = self.output.outputs();
        let qkv = workspace.qkv.at_least(rows * 3 * width);
        self.qkv.run(
            level,
            &workspace.x.as_slice()[..rows * width],
            Activation::None,
            qkv,
        );
        let context = workspace.context.at_least(rows * width);
        attention_cpu(level, qkv, tokens.offsets, tokens.heads, context);
    }

    /// From the first `rows` of `context`, and of `x` for the residual, to those of `x`.
    fn feed_forward(&self, level: Level, rows: usize, workspace: &mut Workspace) {
        let width = self.output.outputs();
        let x = workspace.x.at_least(rows * width);
        let context = workspace.context.at_least(rows * width);
        let attended = workspace.attended.at_least(rows * width);
        Product::new(context, rows, &self.attention_output).compute_into(level, attended);
        residual_layer_norm(level, attended, x, &self.attention_end);
        let wide = workspace.wide.at_least(rows * self.output.inputs());
        self.intermediate
            .run(level, attended, Activation::Gelu, wide);
        Product::new(wide, rows, &self.output).compute_into(level, x);
        residual_layer_norm(level, x, attended, &self.end);
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

/// A linear layer as files have it: weight `[output, input]` and bias.
pub(super) fn weight_and_bias(
    vb: &VarBuilder,
    input: usize,
    output: usize,
) -> Result<(Tensor, Tensor)> {
    Ok((vb.get((output, input), "weight")?, vb.get(output, "bias")?))
}
