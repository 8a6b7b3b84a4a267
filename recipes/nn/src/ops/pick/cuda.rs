//! One token of each sequence on a CUDA device, and the gradient's way back to it.

use candle_core::Result;

use super::place;
use crate::{
    cuda::{Draft, Span},
    graph::{End, Shape},
    ops::{
        Onto,
        pixels::cuda::{Columns, copy, copy_alone},
    },
};

/// From `[sequences, tokens, features]` to `[sequences, features]`.
///
/// # Errors
/// They are too many for a launch.
pub(crate) fn forward(
    draft: &mut Draft,
    end: End,
    (sequences, from): (usize, Shape),
    [x, y]: [Span; 2],
) -> Result<()> {
    let columns = [token(end, from, x), Columns::all(y, from.channels)];
    copy(draft, [sequences, from.channels], columns, Onto::Write)
}

/// The gradient of all tokens, of which the others get none.
///
/// # Errors
/// As for `forward`.
pub(crate) fn backward(
    draft: &mut Draft,
    end: End,
    (sequences, from): (usize, Shape),
    [dy, dx]: [Span; 2],
    onto: Onto,
) -> Result<()> {
    let columns = [Columns::all(dy, from.channels), token(end, from, dx)];
    let sizes = [sequences, from.channels];
    match onto {
        Onto::Write => copy_alone(draft, sizes, columns),
        Onto::Add => copy(draft, sizes, columns, onto),
    }
}

/// A sequence is a pixel here, and its tokens are one after the other that one's channels.
fn token(end: End, from: Shape, span: Span) -> Columns {
    Columns {
        span,
        first: place(end, from).start,
        pitch: from.values(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::{Argument, Element},
        ops::pixels::cuda::tests::launches,
    };

    #[test]
    fn all_tokens_are_written_and_one_is_added_to() {
        let (sequences, from) = (
            4,
            Shape {
                channels: 16,
                height: 1,
                width: 10,
            },
        );
        let bytes = [4, 40].map(|tokens| 2 * tokens * from.channels);
        let made = launches(Element::F16, bytes, |draft, [one, all]| {
            forward(draft, End::Last, (sequences, from), [all, one])?;
            backward(draft, End::Last, (sequences, from), [one, all], Onto::Write)?;
            backward(draft, End::First, (sequences, from), [one, all], Onto::Add)
        });
        // Where it begins there and here, and how.
        let numbers = made
            .iter()
            .map(|launch| [2, 5, 8].map(|i| launch.arguments[i]));
        let expected = [[144, 0, 0], [0, 144, 2], [0, 0, 1]];
        assert!(numbers.eq(expected.map(|numbers| numbers.map(Argument::from))));
    }
}
