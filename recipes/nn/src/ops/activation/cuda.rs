//! Activations on a CUDA device, there and back.

use candle_core::Result;

use crate::{
    activation::Activation,
    cuda::{Draft, Source, Span},
    ops::{
        Onto,
        pixels::cuda::{adds, in_a_row},
    },
};

/// `y = activation(x)` of `len` values; `y` may be `x`.
///
/// # Errors
/// They are too many for a launch.
pub(crate) fn forward(
    draft: &mut Draft,
    activation: Activation,
    [x, y]: [Span; 2],
    len: usize,
) -> Result<()> {
    let (counts, grid) = in_a_row(draft.target.element, len);
    let arguments = ([x.read(), y.write()].into_iter())
        .chain(counts)
        .chain([(activation as usize).into()]);
    // SAFETY: the kernel takes these, and the spans hold `len` values.
    unsafe { draft.launch((Source::TrainValues, "activate"), grid, arguments) }
}

/// `dx = dy * activation'` of `len` values, as [`super::backward`]; `dx` may be `dy`.
///
/// # Errors
/// As for `forward`.
pub(crate) fn backward(
    draft: &mut Draft,
    activation: Activation,
    [known, dy, dx]: [Span; 3],
    onto: Onto,
    len: usize,
) -> Result<()> {
    let (counts, grid) = in_a_row(draft.target.element, len);
    let arguments = ([known.read(), dy.read(), dx.write()].into_iter())
        .chain(counts)
        .chain([(activation as usize).into(), adds(onto)]);
    // SAFETY: as for `forward`.
    unsafe { draft.launch((Source::TrainValues, "slope"), grid, arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::{Argument, Element},
        ops::pixels::cuda::tests::launches,
    };

    /// `common.cuh` numbers them.
    #[test]
    fn activations_are_numbered_as_kernels_number_them() {
        let order = [
            Activation::None,
            Activation::Relu6,
            Activation::Silu,
            Activation::Gelu,
            Activation::Tanh,
            Activation::Sigmoid,
            Activation::Relu,
            Activation::GeluTanh,
        ];
        for (number, activation) in order.into_iter().enumerate() {
            let made = launches(Element::F16, [2 * 100; 3], |draft, [x, dy, y]| {
                forward(draft, activation, [x, y], 100)?;
                backward(draft, activation, [y, dy, dy], Onto::Write, 100)
            });
            let numbers = made.iter().map(|launch| launch.arguments[made_at(launch)]);
            assert!(numbers.eq([Argument::from(number); 2]), "{activation:?}");
        }
    }

    /// Where an activation's number is among the arguments.
    fn made_at(launch: &crate::cuda::Launch) -> usize {
        let spans = launch.arguments.iter();
        let spans = spans.filter(|argument| !matches!(argument, Argument::Word(_)));
        spans.count() + 2
    }
}
