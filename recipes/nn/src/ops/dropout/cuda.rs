//! Dropout on a CUDA device: the zeros that the CPU makes, value by value.

use candle_core::Result;

use super::Dropout;
use crate::{
    cuda::{Argument, Draft, Source, Span},
    ops::{
        Onto,
        pixels::cuda::{adds, in_a_row},
    },
};

impl Dropout {
    /// What kernels take of it: the seed's two words, the layer, the threshold and the factor. The step is in the device's state,
    /// not in the stream.
    pub(crate) fn arguments(&self) -> [Argument; 5] {
        let seed = self.stream.seed;
        // Where all values become zeros the factor is zero, and so the threshold does not matter.
        let threshold = u32::try_from(self.threshold).unwrap_or(u32::MAX);
        [
            Argument::Word(seed as u32),
            Argument::Word((seed >> 32) as u32),
            Argument::Word(self.stream.layer),
            Argument::Word(threshold),
            self.factor.into(),
        ]
    }

    /// `to = from * factors` of `len` values, which is the way there and the way back; `to` may be `from`. `state` is the training
    /// step's.
    ///
    /// # Errors
    /// They are too many for a launch.
    pub(crate) fn launch(
        &self,
        draft: &mut Draft,
        [from, to]: [Span; 2],
        onto: Onto,
        len: usize,
        state: Span,
    ) -> Result<()> {
        let (counts, grid) = in_a_row(draft.target.element, len);
        let arguments = ([from.read(), to.write()].into_iter())
            .chain(counts)
            .chain([adds(onto)])
            .chain(self.arguments())
            .chain([state.read()]);
        // SAFETY: the kernel takes these, and the spans hold `len` values.
        unsafe { draft.launch((Source::TrainValues, "drop"), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::Element,
        ops::{dropout::Stream, pixels::cuda::tests::launches},
    };

    #[test]
    fn kernels_are_given_thresholds_of_32_bits() {
        let stream = Stream {
            seed: 0x1234_5678_9abc_def0,
            step: 3,
            layer: 5,
        };
        for (share, threshold, factor) in
            [(0.0, 0, 1f32), (0.5, 1 << 31, 2.0), (1.0, u32::MAX, 0.0)]
        {
            let dropout = Dropout::new(share, stream);
            for element in [Element::F16, Element::F32] {
                let len = 1000;
                let bytes = [len * element.size(), len * element.size(), 32];
                let made = launches(element, bytes, |draft, [x, y, state]| {
                    dropout.launch(draft, [x, y], Onto::Add, len, state)
                });
                let expected = [0x9abc_def0, 0x1234_5678, 5, threshold];
                let got = &made[0].arguments[5..];
                assert_eq!(got[..4], expected.map(Argument::Word));
                assert_eq!(got[4], Argument::from(factor));
                assert_eq!(got.len(), 6);
            }
        }
    }
}
