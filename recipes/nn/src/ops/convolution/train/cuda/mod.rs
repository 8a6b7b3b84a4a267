//! A convolution in training on a CUDA device: which kernels compute it and its gradients, and how they are launched.
//!
//! What is a product of two matrices as they lie in memory is the vendor's library's. All else gathers what is under each window
//! while it multiplies, and nothing of that is ever written down.

mod dense;
mod depthwise;
mod hopper;
mod lines;
mod share;
#[cfg(test)]
mod tests;
mod weight;

use candle_core::Result;

use self::{hopper::Hopper, lines::Lines};
use super::library::Library;
use crate::{
    cuda::{Argument, Draft, Element, Grid, Matrix, Product, Source, Span, Target},
    graph::{Convolution, Shape},
    ops::Onto,
};

/// Threads of a block of the simpler kernels.
const THREADS: usize = 256;

/// A convolution of so many images of a shape.
///
/// Values are `[images, height, width, channels]`, weights `[outputs, down, across, inputs / groups]`, both in the target's
/// element; so is a bias.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) convolution: Convolution,
    pub(crate) from: Shape,
    pub(crate) to: Shape,
    pub(crate) images: usize,
}

/// What computes a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A product of so many rows of so many values with the weights.
    Rows { rows: usize, values: usize },
    /// Channels by themselves.
    Depthwise,
    /// Sums over channels under windows.
    Dense,
    /// The same by cuDNN, where it is there and faster: in f32, for it has Winograd's kernels.
    Library,
}

impl Layer {
    fn kind(&self, target: Target) -> Kind {
        let Convolution { window, groups, .. } = self.convolution;
        let whole = window.kernel == [self.from.height, self.from.width];
        let channels = self.from.channels;
        if groups == 1 && window.is_pointwise() {
            Kind::Rows {
                rows: self.images * self.from.pixels(),
                values: channels,
            }
        } else if groups == 1 && whole && window.padding == [0; 2] {
            Kind::Rows {
                rows: self.images,
                values: self.from.values(),
            }
        } else if groups == channels && groups == self.to.channels {
            Kind::Depthwise
        } else if target.cudnn && target.element == Element::F32 {
            Kind::Library
        } else {
            Kind::Dense
        }
    }

    /// `y = weight * x + bias`.
    ///
    /// # Errors
    /// There are more images than a launch takes.
    pub(crate) fn forward(
        &self,
        draft: &mut Draft,
        (weight, bias): (Span, Option<Span>),
        x: Span,
        y: Span,
    ) -> Result<()> {
        match self.kind(draft.target) {
            Kind::Rows { rows, values } => {
                let element = draft.target.element;
                draft.multiply(Product {
                    sizes: [rows, self.to.channels, values],
                    a: Matrix::rows(x, element, values),
                    b: Matrix::rows(weight, element, values).turned(),
                    c: Matrix::rows(y, element, self.to.channels),
                    bias,
                    onto: Onto::Write,
                });
                Ok(())
            }
            Kind::Depthwise => depthwise::forward(self, draft, (weight, bias), [x, y]),
            Kind::Library => {
                self.library(draft).forward(draft, x, weight, y);
                match bias {
                    Some(bias) => self.add_bias(draft, bias, y),
                    None => Ok(()),
                }
            }
            Kind::Dense => {
                if let Some(hopper) = Hopper::forward(self, draft.target) {
                    hopper.launch_forward(draft, (weight, bias), [x, y])
                } else if let Some(launched) =
                    hopper::launch_first(self, draft, (weight, bias), [x, y])
                {
                    launched
                } else if let Some(lines) = Lines::of(self, draft.target.element) {
                    lines.forward(draft, (weight, bias), [x, y])
                } else {
                    dense::forward(self, draft, (weight, bias), [x, y])
                }
            }
        }
    }

    /// What a loss changes with `x`.
    ///
    /// # Errors
    /// There are more images than a launch takes.
    pub(crate) fn backward_input(
        &self,
        draft: &mut Draft,
        weight: Span,
        dy: Span,
        (dx, onto): (Span, Onto),
    ) -> Result<()> {
        match self.kind(draft.target) {
            Kind::Rows { rows, values } => {
                let element = draft.target.element;
                draft.multiply(Product {
                    sizes: [rows, values, self.to.channels],
                    a: Matrix::rows(dy, element, self.to.channels),
                    b: Matrix::rows(weight, element, values),
                    c: Matrix::rows(dx, element, values),
                    bias: None,
                    onto,
                });
                Ok(())
            }
            Kind::Depthwise => depthwise::backward_input(self, draft, weight, dy, (dx, onto)),
            Kind::Library => {
                self.library(draft)
                    .backward_input(draft, weight, dy, (dx, onto));
                Ok(())
            }
            Kind::Dense => match Hopper::backward(self, draft.target) {
                Some(hopper) => hopper.launch_backward(draft, weight, dy, (dx, onto)),
                None => dense::backward_input(self, draft, weight, dy, (dx, onto)),
            },
        }
    }

    /// What a loss changes with weights, and with a bias if there is one: f32, written.
    ///
    /// # Errors
    /// There are more images than a launch takes.
    pub(crate) fn backward_weight(
        &self,
        draft: &mut Draft,
        [x, dy]: [Span; 2],
        dweight: Span,
        dbias: Option<Span>,
    ) -> Result<()> {
        match self.kind(draft.target) {
            Kind::Rows { rows, values } => {
                let element = draft.target.element;
                draft.multiply(Product {
                    sizes: [self.to.channels, values, rows],
                    a: Matrix::rows(dy, element, self.to.channels).turned(),
                    b: Matrix::rows(x, element, values),
                    c: Matrix::rows(dweight, Element::F32, values),
                    bias: None,
                    onto: Onto::Write,
                });
            }
            Kind::Depthwise => depthwise::backward_weight(self, draft, [x, dy], dweight)?,
            Kind::Library => self.library(draft).backward_weight(draft, x, dy, dweight),
            Kind::Dense => {
                if let Some(hopper) = Hopper::weight(self, draft.target) {
                    hopper.launch_weight(draft, [x, dy], dweight)?;
                } else if let Some(lines) = Lines::of(self, draft.target.element) {
                    lines.backward_weight(draft, [x, dy], dweight)?;
                } else {
                    weight::backward_weight(self, draft, [x, dy], dweight)?;
                }
            }
        }
        let Some(dbias) = dbias else {
            return Ok(());
        };
        let rows = self.images * self.to.pixels();
        sum_columns(draft, dy, [rows, self.to.channels], dbias)
    }

    fn library(&self, draft: &Draft) -> Library {
        let element = draft.target.element;
        Library::new(element, &self.convolution, self.from, self.to, self.images)
    }

    /// Adds a bias to each pixel of `y`.
    fn add_bias(&self, draft: &mut Draft, bias: Span, y: Span) -> Result<()> {
        let columns = self.to.channels;
        let vector = if columns.is_multiple_of(4) { 4 } else { 1 };
        let count = self.images * self.to.values() / vector;
        let kernel = format!("train_conv_bias_{vector}");
        let grid = Grid::row(count.div_ceil(THREADS), THREADS as u32);
        let arguments = [y.write(), bias.read(), count.into(), columns.into()];
        // SAFETY: the arguments are those that the head of `train_conv_layout.cu` lists, of the shapes that it states.
        unsafe { draft.launch((Source::TrainConvLayout, &kernel), grid, arguments) }
    }

    /// Values of the weight.
    fn weights(&self) -> usize {
        let Convolution { window, groups, .. } = &self.convolution;
        self.to.channels * (self.from.channels / groups) * window.kernel[0] * window.kernel[1]
    }
}

/// Sums of each column of a matrix of so many rows and columns, in f32.
fn sum_columns(
    draft: &mut Draft,
    values: Span,
    [rows, columns]: [usize; 2],
    to: Span,
) -> Result<()> {
    let vector = if columns.is_multiple_of(4) { 4 } else { 1 };
    let across = columns.div_ceil(32 * vector);
    let (share, shares) = share::even(rows, (4 * draft.target.processors).div_ceil(across), 64);
    let parts = share::parts(draft, to, shares);
    let kernel = format!("train_conv_columns_{vector}");
    let grid = Grid {
        blocks: [across, shares, 1],
        threads: THREADS as u32,
        shared: 0,
    };
    let numbers = [rows, columns, share].map(Argument::from);
    let arguments = [parts.write(), values.read()].into_iter().chain(numbers);
    // SAFETY: the arguments are those that the head of `train_conv_layout.cu` lists, of the shapes that it states.
    unsafe { draft.launch((Source::TrainConvLayout, &kernel), grid, arguments)? };
    share::sum(draft, parts, to, shares)
}
