//! Gates on a CUDA device, there and back.

use candle_core::Result;

use crate::{
    cuda::{Draft, Span},
    graph::Shape,
    ops::{
        Onto,
        pixels::cuda::{Factor, Gate},
        pool::cuda::Total,
    },
};

/// `y = x * gates`. Values are `images` of `shape`, gates `[images, channels]`.
///
/// # Errors
/// The images are too many for a launch; so for all that follow.
pub(crate) fn forward(
    draft: &mut Draft,
    (images, shape): (usize, Shape),
    [x, gates, y]: [Span; 3],
) -> Result<()> {
    backward_input(draft, (images, shape), [gates, x, y], Onto::Write)
}

/// `dx = dy * gates`.
pub(crate) fn backward_input(
    draft: &mut Draft,
    (images, shape): (usize, Shape),
    [gates, dy, dx]: [Span; 3],
    onto: Onto,
) -> Result<()> {
    let gate = Gate {
        images,
        shape,
        x: Factor::Values(dy),
        gates,
        y: dx,
        onto,
    };
    gate.launch(draft)
}

/// `dgates`, the sums of `x * dy` over an image's pixels.
pub(crate) fn backward_gates(
    draft: &mut Draft,
    (images, shape): (usize, Shape),
    [x, dy, dgates]: [Span; 3],
    onto: Onto,
) -> Result<()> {
    let total = Total {
        images,
        shape,
        x,
        other: Some(dy),
        out: dgates,
        factor: 1.0,
        onto,
    };
    total.launch(draft)
}
