//! Channels in turns on a CUDA device.

use candle_core::Result;

use crate::{
    cuda::{Argument, Draft, Grid, Source, Span},
    ops::{
        Onto,
        pixels::cuda::{BLOCK, adds, rows, vector},
    },
};

/// `to[i] = from[i % groups * each + i / groups]` for the channels of so many pixels, as [`super::run`].
///
/// # Errors
/// The pixels are too many for a launch.
pub(crate) fn run(
    draft: &mut Draft,
    groups: usize,
    [pixels, channels]: [usize; 2],
    [from, to]: [Span; 2],
    onto: Onto,
) -> Result<()> {
    let (element, each) = (draft.target.element, channels / groups);
    let spans = [from.read(), to.write(), pixels.into()];
    // Two groups, and what undoes them, are most of what there is.
    if groups == 2 || each == 2 {
        let apart = groups != 2;
        let length = vector(element, &[channels / 2]);
        let grid = rows(element, pixels * channels / 2 / length, length);
        let numbers = [channels.into(), usize::from(apart).into(), adds(onto)];
        let arguments = spans.into_iter().chain(numbers).chain([length.into()]);
        // SAFETY: the kernel takes these, and the spans hold so many pixels.
        unsafe { draft.launch((Source::TrainValues, "braid"), grid, arguments) }
    } else {
        let grid = Grid::row((pixels * channels).div_ceil(BLOCK), BLOCK as u32);
        let numbers = [groups, each].map(Argument::from);
        let arguments = spans.into_iter().chain(numbers).chain([adds(onto)]);
        // SAFETY: as above.
        unsafe { draft.launch((Source::TrainValues, "shuffle"), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cuda::Element, ops::pixels::cuda::tests::launches};

    #[test]
    fn two_groups_and_their_undoing_go_by_vectors() {
        for (groups, channels, kernel, length) in [
            (2, 116, "braid_f16", Some(2)),
            (58, 116, "braid_f16", Some(2)),
            (2, 464, "braid_f16", Some(8)),
            (3, 12, "shuffle_f16", None),
        ] {
            let pixels = 77;
            let made = launches(Element::F16, [2 * pixels * channels; 2], |draft, spans| {
                run(draft, groups, [pixels, channels], spans, Onto::Add)
            });
            assert_eq!(made[0].kernel, kernel);
            if let Some(length) = length {
                assert_eq!(made[0].arguments[6], Argument::from(length));
            }
        }
    }
}
