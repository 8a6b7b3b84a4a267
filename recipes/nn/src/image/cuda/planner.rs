//! A pass in the making: its launches so far, and the memory that they use.

use candle_core::{Result, bail};

use super::scratch::Scratch;
use crate::{
    activation::Activation,
    cuda::{Program, Span, Target},
    image::padding::Size,
    matmul::cuda::{Dense, Gates, Product},
};

/// Pixels of a layer, of all images together. Kernels number them by an `int`, and go up to a tile beyond the last.
const MOST_PIXELS: usize = 1 << 30;

/// Images between two layers, `[count, height, width, channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Images {
    pub(crate) span: Span,
    pub(crate) count: usize,
    pub(crate) size: Size,
    /// As they lie there, padded.
    pub(crate) channels: usize,
}

impl Images {
    /// Of all images together.
    pub(super) fn pixels(&self) -> usize {
        self.count * self.size.pixels()
    }
}

pub(super) struct Planner<'a> {
    pub(super) target: &'a Target,
    /// What follows every convolution but those that project.
    pub(super) activation: Activation,
    pub(super) program: Program,
    pub(super) scratch: Scratch,
}

impl<'a> Planner<'a> {
    pub(super) fn new(target: &'a Target, activation: Activation) -> Self {
        Self {
            target,
            activation,
            program: Program::default(),
            scratch: Scratch::default(),
        }
    }

    /// Memory for images.
    ///
    /// # Errors
    /// They have more pixels than kernels can number.
    pub(super) fn images(&mut self, count: usize, size: Size, channels: usize) -> Result<Images> {
        let pixels =
            (size.height.checked_mul(size.width)).and_then(|pixels| pixels.checked_mul(count));
        match pixels {
            Some(pixels) if pixels <= MOST_PIXELS => {
                let bytes = pixels * channels * self.target.element.size();
                Ok(Images {
                    span: self.scratch.take(bytes),
                    count,
                    size,
                    channels,
                })
            }
            _ => bail!(
                "expected at most {MOST_PIXELS} pixels in a batch, got {count} images of {} by {}",
                size.height,
                size.width
            ),
        }
    }

    /// A 1x1 convolution: `activation(x * gates W^T + bias) + residual`. Gates are `[count, channels]`.
    ///
    /// # Errors
    /// As [`Product::push`].
    pub(super) fn dense(
        &mut self,
        x: Images,
        dense: &Dense,
        activation: Activation,
        (gates, residual): (Option<Span>, Option<Images>),
    ) -> Result<Images> {
        assert_eq!(x.channels, dense.inputs(), "channels");
        let out = self.images(x.count, x.size, dense.outputs())?;
        let rows_per_image = x.size.pixels();
        Product {
            activation,
            gates: gates.map(|values| Gates {
                values,
                rows_per_image,
            }),
            residual: residual.map(|images| images.span),
            // An image's classes must not hang on its batch.
            fixed_order: true,
            ..Product::new(x.span, x.pixels(), dense, out.span)
        }
        .push(self.target, &mut self.program)?;
        Ok(out)
    }
}
