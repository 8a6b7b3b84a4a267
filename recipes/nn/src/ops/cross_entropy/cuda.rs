//! Softmax cross-entropy on a CUDA device.

use candle_core::Result;

use crate::{
    cuda::{Argument, Draft, Grid, Source, Span},
    ops::{
        Onto,
        pixels::cuda::{BLOCK, adds},
    },
};

/// The loss of logits `[batch, classes]` by each row's label, and its gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossEntropy {
    pub(crate) batch: usize,
    pub(crate) classes: usize,
    /// What the mean over the batch is multiplied by.
    pub(crate) weight: f64,
    pub(crate) logits: Span,
    /// i32 `[batch]`, below the classes.
    pub(crate) labels: Span,
    /// f32 `[1]`, the loss times its weight.
    pub(crate) loss: Span,
    /// That of `weight` times the loss, times the state's scale.
    pub(crate) gradient: Option<(Span, Onto)>,
    /// The training step's.
    pub(crate) state: Span,
}

impl CrossEntropy {
    /// Adds its launches.
    ///
    /// # Errors
    /// The batch is too large for a launch.
    pub(crate) fn launch(self, draft: &mut Draft) -> Result<()> {
        let share = (self.weight / self.batch as f64) as f32;
        let [losses] = draft.scratch([4 * self.batch]);
        let (gradient, onto) = self.gradient.unzip();
        let arguments = [
            self.logits.read(),
            self.labels.read(),
            losses.write(),
            gradient.map_or(Argument::Null, Span::write),
            self.classes.into(),
            share.into(),
            adds(onto.unwrap_or(Onto::Write)),
            self.state.read(),
        ];
        let grid = Grid::row(self.batch, BLOCK as u32);
        // SAFETY: the kernel takes these, the spans are of these shapes, and labels are below the classes.
        unsafe { draft.launch((Source::TrainTables, "cross_entropy"), grid, arguments)? };
        let arguments = [
            losses.read(),
            self.loss.write(),
            self.batch.into(),
            share.into(),
        ];
        let grid = Grid::row(1, BLOCK as u32);
        // SAFETY: as above.
        unsafe { draft.launch((Source::TrainTables, "loss"), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cuda::Element, ops::pixels::cuda::tests::launches};

    #[test]
    fn a_row_is_a_block_and_all_of_them_are_a_loss() {
        let (batch, classes) = (6, 1000);
        let bytes = [2 * batch * classes, 4 * batch, 4, 2 * batch * classes, 32];
        for goes_back in [false, true] {
            let made = launches(Element::F16, bytes, |draft, spans| {
                let [logits, labels, loss, gradient, state] = spans;
                let loss = CrossEntropy {
                    batch,
                    classes,
                    weight: 0.3,
                    logits,
                    labels,
                    loss,
                    gradient: goes_back.then_some((gradient, Onto::Add)),
                    state,
                };
                loss.launch(draft)
            });
            assert_eq!(made[0].grid, Grid::row(batch, 256));
            assert_eq!(made[1].grid, Grid::row(1, 256));
            assert_eq!(made[0].arguments[3] != Argument::Null, goes_back);
            assert_eq!(made[0].arguments[5], Argument::from(0.05f32));
        }
    }
}
