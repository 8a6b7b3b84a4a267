//! Sums over many values that are shared out among blocks, and added in order.

use candle_core::Result;

use super::THREADS;
use crate::cuda::{Argument, Draft, Grid, Source, Span};

/// Of so many values about so many shares, each of at least a few: how many values a share has, and how many shares there are.
pub(super) fn even(values: usize, shares: usize, least: usize) -> (usize, usize) {
    let share = values.div_ceil(shares.max(1)).next_multiple_of(least);
    (share, values.div_ceil(share).max(1))
}

/// Where shares of what goes to a span are: of one, there.
pub(super) fn parts(draft: &mut Draft, to: Span, shares: usize) -> Span {
    if shares == 1 {
        return to;
    }
    let [parts] = draft.scratch([shares * to.bytes]);
    parts
}

/// Adds them up.
pub(super) fn sum(draft: &mut Draft, parts: Span, to: Span, shares: usize) -> Result<()> {
    if shares == 1 {
        return Ok(());
    }
    let count = to.bytes / size_of::<f32>();
    // A thread that has a value for itself waits long where there are many shares, and idle ones cost where there are not.
    let (name, grid) = if count < 1 << 14 {
        ("train_conv_sum_many", Grid::row(count.div_ceil(32), 512))
    } else {
        let blocks = count.div_ceil(THREADS);
        ("train_conv_sum", Grid::row(blocks, THREADS as u32))
    };
    let kernel = (Source::TrainConvWeight, name);
    let arguments = [to.write(), parts.read(), count.into(), shares.into()];
    // SAFETY: the arguments are those that the head of `train_conv_weight.cu` lists, of the shapes that it states.
    unsafe { draft.launch(kernel, grid, arguments) }
}

/// Numbers behind spans, as kernels take them.
pub(super) fn arguments<const N: usize, const M: usize>(
    spans: [Argument; N],
    numbers: [usize; M],
) -> impl Iterator<Item = Argument> {
    spans
        .into_iter()
        .chain(numbers.into_iter().map(Argument::from))
}
