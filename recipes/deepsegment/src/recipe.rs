//! The recipe's stages around the network.

use std::{
    cmp::Reverse,
    sync::{Mutex, PoisonError},
};

use galley_core::{
    Architecture, ForwardError, Input, InputError, InputLimits, Output, RawTensors, Recipe,
    RecipeInfo, TextInput, synthetic,
};
use rayon::prelude::*;
use serde_json::Value;

use crate::{
    model::Memo,
    raw,
    text::Text,
    vocabulary::Vocabulary,
    windows::{Segmenter, Windows},
};

/// Words of a typical text: three to eight reviews or remarks run together.
const SAMPLE_WORDS: usize = 105;

/// Texts that go through their rounds together, at the most.
const GROUP: usize = 24;

/// Sentence segmentation with one set of weights.
pub(crate) struct DeepSegment {
    pub(crate) info: RecipeInfo,
    pub(crate) parameters: u64,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) segmenter: Segmenter,
    pub(crate) windows: Windows,
    pub(crate) limits: InputLimits,
    /// Memos that nobody uses at the moment; there are never more than threads.
    pub(crate) memos: Mutex<Vec<Memo>>,
}

impl DeepSegment {
    /// Runs texts as one batch, cut in the windows given.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn segment(
        &self,
        texts: &[&Text],
        windows: Windows,
    ) -> candle_core::Result<Vec<Vec<u32>>> {
        if !self.segmenter.network.is_on_cpu() {
            // A round of all of them is a single pass.
            return self.with_memo(|memo| self.segmenter.segment(texts, windows, memo));
        }
        // Groups of about the same length, the longest first: threads end together, and few rounds are half empty.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&place| Reverse(texts[place].len()));
        let size = texts
            .len()
            .div_ceil(2 * rayon::current_num_threads())
            .clamp(1, GROUP);
        let groups: candle_core::Result<Vec<Vec<Vec<u32>>>> = galley_nn::pool::run(|| {
            order
                .par_chunks(size)
                .map(|group| {
                    let texts: Vec<&Text> = group.iter().map(|&place| texts[place]).collect();
                    self.with_memo(|memo| self.segmenter.segment(&texts, windows, memo))
                })
                .collect()
        });
        let mut answers = vec![Vec::new(); texts.len()];
        for (place, sentences) in order.into_iter().zip(groups?.into_iter().flatten()) {
            answers[place] = sentences;
        }
        Ok(answers)
    }

    fn with_memo<T>(&self, work: impl FnOnce(&mut Memo) -> T) -> T {
        let memos = || self.memos.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memo = memos().pop().unwrap_or_default();
        let result = work(&mut memo);
        memos().push(memo);
        result
    }
}

impl Recipe for DeepSegment {
    type Prepared = Text;
    type Raw = Vec<u32>;

    fn info(&self) -> &RecipeInfo {
        &self.info
    }

    fn architecture(&self) -> Architecture {
        Architecture {
            parameters: Some(self.parameters),
            ..Architecture::default()
        }
    }

    fn example(&self) -> Input {
        Input::text("i was hungry so i ordered a pizza then i went to the movies what did you do")
    }

    fn prepare(&self, input: Input) -> Result<Text, InputError> {
        let input = TextInput::read(input, &[], &self.limits)?;
        Ok(Text::new(input.text, &self.vocabulary))
    }

    fn cost(&self, text: &Text) -> u32 {
        u32::try_from(text.len()).unwrap_or(u32::MAX).max(1)
    }

    fn forward(&self, batch: &[&Text]) -> Result<Vec<Vec<u32>>, ForwardError> {
        Ok(self.segment(batch, self.windows)?)
    }

    fn finish(&self, text: Text, sentences: Vec<u32>) -> Output {
        let ends = sentences.iter().skip(1).map(|&start| start as usize);
        let ends = ends.chain([text.len()]);
        Output::Sentences(
            sentences
                .iter()
                .zip(ends)
                .map(|(&start, end)| text.join(start as usize..end))
                .collect(),
        )
    }

    fn sample(&self, size: Option<usize>, seed: u64) -> Text {
        // Log-uniform over a vocabulary in the order of frequency, which is about how often words are met.
        let words: Vec<&str> = synthetic::uniform("deepsegment.sample", seed)
            .take(size.unwrap_or(SAMPLE_WORDS))
            .map(|u| {
                let rank = 20_000_f32.powf((u + 1.0) / 2.0);
                self.vocabulary.known(rank as usize - 1)
            })
            .collect();
        Text::new(words.join(" "), &self.vocabulary)
    }

    fn forward_tensors(&self, tensors: &RawTensors) -> Result<Vec<Value>, ForwardError> {
        raw::emissions(&self.segmenter.network, tensors)
    }
}
