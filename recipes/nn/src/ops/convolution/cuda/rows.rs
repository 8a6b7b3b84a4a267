//! Products of some hundred rows as convolutions of one pixel: too few tiles of `matmul_sm90.cu` for a card, of which
//! `conv_sm90.cu` has smaller ones and shares the sums of each over a cluster.

use candle_core::Result;

use super::{Convolution, Images, Pass, STEP};
use crate::{
    activation::Activation,
    cuda::{Element, Program, Span, Target},
    graph::Window,
    matmul::cuda::{MANY_ROWS, Product},
};

/// Up to so many rows `matmul.cu` has tiles of 16 by 16.
const FEW_ROWS: usize = 64;
/// Of narrower layers `matmul.cu` was the faster: a text of 512 tokens took BERT base 0.82 ms there and 0.89 here, BERT large, 1024
/// wide, 2.63 and 2.24 on an H200.
const WIDE: usize = 1024;

/// A product, and the layer that computes it.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    product: Product<'a>,
    layer: Convolution,
}

impl<'a> Rows<'a> {
    /// None where another kernel is to compute it.
    pub(crate) fn of(product: Product<'a>, target: &Target) -> Option<Self> {
        let dense = product.dense;
        let hopper = target.element == Element::F16 && target.capability == (9, 0);
        let some = (FEW_ROWS + 1..=MANY_ROWS).contains(&product.rows);
        let wide = dense.inputs() >= WIDE && dense.outputs() >= WIDE;
        let whole = dense.inputs().is_multiple_of(STEP) && dense.outputs().is_multiple_of(STEP);
        let plain = product.gates.is_none() && product.residual.is_none() && !product.fixed_order;
        let layer = Convolution::laid(
            dense.numbers(),
            Window::new(1),
            [1, dense.outputs()],
            dense.inputs() / STEP,
        );
        (hopper && some && wide && whole && plain).then_some(Self {
            layer: Convolution {
                activation: product.activation,
                ..layer
            },
            product,
        })
    }

    /// Adds its launch.
    ///
    /// # Errors
    /// The grid is larger than any card takes.
    pub(crate) fn push(&self, target: &Target, program: &mut Program) -> Result<()> {
        let Product {
            x,
            rows,
            dense,
            out,
            ..
        } = self.product;
        let images = |span: Span, features: usize| Images {
            span: span.first(rows * features * Element::F16.size()),
            count: 1,
            size: [1, rows],
            channels: features,
            pitch: features,
        };
        let pass = Pass {
            layer: &self.layer,
            input: images(x, dense.inputs()),
            output: images(out, dense.outputs()),
            residual: None,
            after: Activation::None,
        };
        pass.push(target, program)
    }
}
