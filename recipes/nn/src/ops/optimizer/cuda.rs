//! What an optimizer does on a CUDA device, and what a training step remembers there.

use candle_core::Result;

use crate::{
    cuda::{Argument, Draft, Element, Grid, Source, Span},
    ops::pixels::cuda::BLOCK,
};

/// Values of a thread.
const EACH: usize = 4;
/// Values of a thread that looks for an overflow.
const CHECKED: usize = 16;
/// What lengths are multiples of.
const UNIT: usize = 8;

/// What a training step remembers on the device, in the order of `train_state.cuh`. The numbers of AdamW's step are beside it there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct State {
    /// What gradients are multiplied by.
    pub(crate) scale: f32,
    /// Steps since the scale was last changed.
    pub(crate) good: u32,
    /// Passes there and back.
    pub(crate) passes: u32,
    /// Those that changed the parameters.
    pub(crate) steps: u32,
    /// Whether a gradient of this pass is no finite number.
    pub(crate) overflow: u32,
    /// Passes with such.
    pub(crate) overflows: u32,
}

impl State {
    /// On the device.
    pub(crate) const BYTES: usize = 32;

    /// Before the first step, of whose arithmetic only f16 with f32 beside it has its loss scaled.
    pub(crate) fn first(element: Element, pure: bool) -> Self {
        Self {
            scale: match element {
                Element::F16 if !pure => 65536.0,
                _ => 1.0,
            },
            good: 0,
            passes: 0,
            steps: 0,
            overflow: 0,
            overflows: 0,
        }
    }

    /// As the device reads it.
    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let words = [
            self.scale.to_bits(),
            self.good,
            self.passes,
            self.steps,
            self.overflow,
            self.overflows,
        ];
        let mut bytes = [0; Self::BYTES];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// As the device has written it.
    pub(crate) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |i: usize| u32::from_le_bytes(bytes.as_chunks().0[i]);
        Self {
            scale: f32::from_bits(word(0)),
            good: word(1),
            passes: word(2),
            steps: word(3),
            overflow: word(4),
            overflows: word(5),
        }
    }
}

/// What is trained. Arrays are of `len` values, with zeros between tensors in all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trained {
    pub(crate) len: usize,
    /// f32.
    pub(crate) parameters: Span,
    /// Their copy, where the network computes in f16.
    pub(crate) copy: Option<Span>,
    /// f32, times the state's scale.
    pub(crate) gradients: Span,
    /// [`State::BYTES`].
    pub(crate) state: Span,
    /// Whether every number is rounded to f16.
    pub(crate) pure: bool,
}

/// A step of stochastic gradient descent, as PyTorch's `SGD`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sgd {
    pub(crate) lr: f32,
    /// What is left of the momentum in the next step, which begins with the first gradient.
    pub(crate) momentum: f32,
    pub(crate) weight_decay: f32,
    pub(crate) nesterov: bool,
    /// f32, the momentum, where any is left of it.
    pub(crate) kept: Option<Span>,
}

/// A step of Adam with decoupled weight decay, as PyTorch's `AdamW`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamW {
    pub(crate) lr: f64,
    pub(crate) betas: [f64; 2],
    pub(crate) eps: f64,
    pub(crate) weight_decay: f64,
    /// f32, the means of gradients and of their squares.
    pub(crate) kept: [Span; 2],
}

impl Trained {
    /// Looks for gradients that are no finite numbers, which f16 may have brought about; such a step changes nothing. It comes before
    /// the step, of which all launches are refused where there are too many parameters.
    ///
    /// # Errors
    /// There are too many; so for all that follow.
    pub(crate) fn check(&self, draft: &mut Draft) -> Result<()> {
        if draft.target.element == Element::F32 || self.pure {
            return Ok(());
        }
        let grid = Grid::row(
            self.vectors().div_ceil(CHECKED / EACH * BLOCK),
            BLOCK as u32,
        );
        let arguments = [
            self.gradients.read(),
            self.vectors().into(),
            self.state.write(),
        ];
        // SAFETY: the kernel takes these, and the spans are of these lengths.
        unsafe { draft.launch((Source::TrainUpdate, "finite"), grid, arguments) }
    }

    /// A step.
    pub(crate) fn sgd(&self, draft: &mut Draft, with: &Sgd) -> Result<()> {
        let arguments = [
            self.parameters.write(),
            self.gradients.read(),
            with.kept.map_or(Argument::Null, Span::write),
            self.copy.map_or(Argument::Null, Span::write),
            self.vectors().into(),
            with.lr.into(),
            with.momentum.into(),
            with.weight_decay.into(),
            usize::from(with.nesterov).into(),
            self.state.read(),
        ];
        // SAFETY: as for `check`.
        unsafe { self.launch(draft, "sgd", self.grid(), arguments) }
    }

    /// A step.
    pub(crate) fn adam_w(&self, draft: &mut Draft, with: &AdamW) -> Result<()> {
        let [first, second] = with.betas;
        let words = [with.lr, first, second].map(f64::to_bits);
        let words = words.map(|bits| [bits as u32, (bits >> 32) as u32]);
        let arguments = (words.into_iter().flatten())
            .map(Argument::Word)
            .chain([self.state.write()]);
        // SAFETY: as for `check`.
        unsafe {
            draft.launch((Source::TrainUpdate, "prepare"), Grid::row(1, 1), arguments)?;
        }
        let [mean, square] = with.kept;
        let arguments = [
            self.parameters.write(),
            self.gradients.read(),
            mean.write(),
            square.write(),
            self.copy.map_or(Argument::Null, Span::write),
            self.vectors().into(),
            ((1.0 - with.lr * with.weight_decay) as f32).into(),
            (first as f32).into(),
            (second as f32).into(),
            (with.eps as f32).into(),
            self.state.read(),
        ];
        // SAFETY: as for `check`.
        unsafe { self.launch(draft, "adam_w", self.grid(), arguments) }
    }

    /// Counts the pass and the step, and changes the scale as f16 wants it. It comes last.
    pub(crate) fn end(&self, draft: &mut Draft) -> Result<()> {
        let arguments = [self.state.write()];
        // SAFETY: as for `check`.
        unsafe { self.launch(draft, "end", Grid::row(1, 1), arguments) }
    }

    /// A kernel of the arithmetic.
    ///
    /// # Safety
    /// As [`Draft::launch`].
    unsafe fn launch(
        &self,
        draft: &mut Draft,
        name: &str,
        grid: Grid,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        // SAFETY: as the caller's.
        unsafe {
            if self.pure {
                let kernel = (Source::TrainUpdate, format!("{name}_pure"));
                draft.program().push(kernel, grid, arguments)
            } else {
                draft.launch((Source::TrainUpdate, name), grid, arguments)
            }
        }
    }

    fn grid(&self) -> Grid {
        Grid::row(self.vectors().div_ceil(BLOCK), BLOCK as u32)
    }

    /// # Panics
    /// The length is no multiple of what kernels take at once, as that of a plan's arrays is.
    fn vectors(&self) -> usize {
        assert!(self.len.is_multiple_of(UNIT), "whole vectors");
        self.len / EACH
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::pixels::cuda::tests::launches;

    #[test]
    fn a_state_comes_back_as_it_went() {
        let state = State {
            scale: 512.0,
            good: 1,
            passes: 2,
            steps: 3,
            overflow: 4,
            overflows: 5,
        };
        let bytes = state.to_bytes();
        assert_eq!(State::from_bytes(&bytes), state);
        assert_eq!(bytes[..8], [0, 0, 0, 68, 1, 0, 0, 0]);
    }

    #[test]
    fn only_f16_looks_for_overflows_and_has_a_copy() {
        let len = 10_000;
        for element in [Element::F16, Element::F32] {
            let bytes = [4 * len, 2 * len, 4 * len, 4 * len, 4 * len, State::BYTES];
            let made = launches(element, bytes, |draft, spans| {
                let [parameters, copy, gradients, mean, square, state] = spans;
                let trained = Trained {
                    len,
                    parameters,
                    copy: (element == Element::F16).then_some(copy),
                    gradients,
                    state,
                    pure: false,
                };
                trained.check(draft)?;
                let with = AdamW {
                    lr: 0.25,
                    betas: [0.5, 0.75],
                    eps: 0.5,
                    weight_decay: 0.5,
                    kept: [mean, square],
                };
                trained.adam_w(draft, &with)?;
                let with = Sgd {
                    lr: 0.25,
                    momentum: 0.5,
                    weight_decay: 0.125,
                    nesterov: true,
                    kept: Some(mean),
                };
                trained.sgd(draft, &with)?;
                trained.end(draft)
            });
            let skipped = usize::from(element == Element::F32);
            let names = ["finite", "prepare", "adam_w", "sgd", "end"];
            let names = names.map(|name| format!("{name}_{}", element.name()));
            assert!(
                made.iter()
                    .map(|launch| &launch.kernel)
                    .eq(&names[skipped..])
            );
            let [.., prepare, adam_w, _, _] = &made[..] else {
                panic!("four launches, or five")
            };
            // 0.25 is 2^-2, whose words these are.
            let words = prepare.arguments[..2].iter().copied();
            assert!(words.eq([0, 0x3fd0_0000].map(Argument::Word)));
            assert_eq!(adam_w.grid, Grid::row((len / 4).div_ceil(256), 256));
            assert_eq!(adam_w.arguments[6], Argument::from(0.875f32));
            assert_eq!(adam_w.arguments[4] == Argument::Null, skipped == 1);
        }
    }
}
