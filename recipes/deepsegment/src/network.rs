//! The network, on the device that it was loaded for.

use candle_core::Result;
use candle_nn::VarBuilder;
use galley_nn::{
    Backend,
    lstm::{Tagger, TaggerConfig, Words},
};

use crate::{
    config::Config,
    crf::{Crf, LABELS},
    model::{Memo, Model},
    text::{Keys, Text},
    vocabulary::parts,
};

/// A row that is not known.
const UNKNOWN: u32 = u32::MAX;

/// From words to labels.
pub(crate) struct Network {
    on: On,
    /// How many words and characters it knows; all indices are below.
    vocabulary: (usize, usize),
}

enum On {
    Cpu(Box<Cpu>),
    /// Everything in a pass of its own.
    Gpu(Box<Tagger>),
}

/// With what words bring along kept in a [`Memo`].
struct Cpu {
    model: Model,
    crf: Crf,
}

/// Which rows a text's distinct words have: of the memo, in an epoch, or of a pass.
pub(crate) struct Rows {
    rows: Vec<u32>,
    epoch: u64,
}

/// Some words of a text that are one sequence, by their numbers among its distinct ones.
pub(crate) struct Sequence<'a> {
    pub(crate) text: &'a Text,
    pub(crate) words: &'a [u32],
    pub(crate) rows: &'a mut Rows,
}

impl Rows {
    pub(crate) fn new(text: &Text) -> Self {
        Self {
            rows: vec![UNKNOWN; text.distinct.len()],
            // Not the memo's, whose rows have not been asked for yet.
            epoch: u64::MAX,
        }
    }
}

impl Network {
    /// Lays the weights out for the CPU, or else for the backend's device.
    pub(crate) fn load(backend: &Backend, vb: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let vocabulary = (config.vocab_size, config.char_vocab_size);
        let on = if backend.is_cpu() {
            On::Cpu(Box::new(Cpu {
                model: Model::load(vb, config)?,
                crf: Crf::load(&vb.pp("crf"))?,
            }))
        } else {
            On::Gpu(Box::new(Tagger::load(backend, vb, &tagger_config(config))?))
        };
        Ok(Self { on, vocabulary })
    }

    /// Whether it computes where it is called.
    pub(crate) fn is_on_cpu(&self) -> bool {
        matches!(self.on, On::Cpu(_))
    }

    pub(crate) fn vocabulary(&self) -> (usize, usize) {
        self.vocabulary
    }

    /// The labels of all words, sequence after sequence.
    pub(crate) fn labels(
        &self,
        sequences: &mut [Sequence<'_>],
        memo: &mut Memo,
    ) -> Result<Vec<u8>> {
        match &self.on {
            On::Cpu(cpu) => Ok(cpu.labels(sequences, memo)),
            On::Gpu(tagger) => tagger.tags(&words_of(sequences)),
        }
    }

    /// The scores of words' labels: `words` are those of all sequences, end to end.
    pub(crate) fn emissions(&self, words: &Keys, lengths: &[usize]) -> Result<Vec<[f32; LABELS]>> {
        let keys = (0..words.len() as u32).map(|number| words.get(number));
        match &self.on {
            On::Cpu(cpu) => {
                let mut memo = Memo::default();
                let rows = memo.rows(&cpu.model, keys);
                Ok(cpu.model.emissions(&memo, &rows, lengths))
            }
            On::Gpu(tagger) => {
                let mut words = Words::default();
                let rows: Vec<u32> = keys.map(|key| add(&mut words, key)).collect();
                let mut rows = rows.into_iter();
                for &length in lengths {
                    words.sequence(rows.by_ref().take(length));
                }
                let scores = tagger.scores(&words)?;
                Ok(scores.as_chunks().0.to_vec())
            }
        }
    }
}

impl Cpu {
    fn labels(&self, sequences: &mut [Sequence<'_>], memo: &mut Memo) -> Vec<u8> {
        self.learn(sequences, memo);
        let row = |sequence: &Sequence<'_>, word: u32| sequence.rows.rows[word as usize];
        let rows: Vec<u32> = sequences
            .iter()
            .flat_map(|sequence| sequence.words.iter().map(|&word| row(sequence, word)))
            .collect();
        let lengths: Vec<usize> = sequences
            .iter()
            .map(|sequence| sequence.words.len())
            .collect();
        let emissions = self.model.emissions(memo, &rows, &lengths);
        let mut rest = emissions.as_slice();
        let mut labels = Vec::with_capacity(rows.len());
        for length in lengths {
            let (own, others) = rest.split_at(length);
            labels.extend(self.crf.best(own));
            rest = others;
        }
        labels
    }

    /// Finds the rows of all words, all new words being computed together.
    fn learn(&self, sequences: &mut [Sequence<'_>], memo: &mut Memo) {
        let mut wanted = Vec::new();
        for (place, sequence) in sequences.iter_mut().enumerate() {
            let known = &mut *sequence.rows;
            if known.epoch != memo.epoch() {
                known.rows.fill(UNKNOWN);
                known.epoch = memo.epoch();
            }
            let unknown = |word: &&u32| known.rows[**word as usize] == UNKNOWN;
            wanted.extend(
                sequence
                    .words
                    .iter()
                    .filter(unknown)
                    .map(|&word| (place, word)),
            );
        }
        let keys = wanted
            .iter()
            .map(|&(place, word): &(usize, u32)| sequences[place].text.distinct.get(word));
        let rows = memo.rows(&self.model, keys);
        for ((place, word), row) in wanted.into_iter().zip(rows) {
            sequences[place].rows.rows[word as usize] = row;
        }
    }
}

/// What a pass is given: each word of a text once, whatever other texts have.
fn words_of(sequences: &mut [Sequence<'_>]) -> Words {
    let mut words = Words::default();
    for sequence in sequences {
        let rows = &mut sequence.rows.rows;
        for &word in sequence.words {
            let row = &mut rows[word as usize];
            if *row == UNKNOWN {
                *row = add(&mut words, sequence.text.distinct.get(word));
            }
        }
        words.sequence(sequence.words.iter().map(|&word| rows[word as usize]));
        // They are good for this pass alone.
        for &word in sequence.words {
            rows[word as usize] = UNKNOWN;
        }
    }
    words
}

fn add(words: &mut Words, key: &[u8]) -> u32 {
    let (word, chars) = parts(key);
    words.add(word, chars.iter().copied().map(u32::from))
}

fn tagger_config(config: &Config) -> TaggerConfig {
    TaggerConfig {
        words: config.vocab_size,
        word_size: config.word_embedding_dim,
        chars: config.char_vocab_size,
        char_size: config.char_embedding_dim,
        char_hidden: config.char_lstm_hidden,
        word_hidden: config.word_lstm_hidden,
        dense: config.dense_dim,
        tags: LABELS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text of words that are numbers among its distinct ones, of which each is spelt with its own number.
    fn text(words: &[u32]) -> Text {
        let distinct = words.iter().max().map_or(0, |last| last + 1);
        let mut text = Text::default();
        for word in 0..distinct {
            text.distinct.add(|key| {
                key.extend_from_slice(&(100 + word).to_le_bytes());
                key.extend((0..word).map(|_| word as u8));
            });
        }
        text.words = words.to_vec();
        text
    }

    #[test]
    fn a_pass_has_each_word_of_a_text_once_and_the_next_pass_begins_anew() {
        let texts = [text(&[2, 0, 2, 1]), text(&[1, 1, 0])];
        let mut rows = texts.each_ref().map(Rows::new);
        let mut pass = |windows: [std::ops::Range<usize>; 2]| {
            let mut sequences: Vec<Sequence<'_>> = (texts.iter().zip(&mut rows).zip(windows))
                .map(|((text, rows), window)| Sequence {
                    text,
                    words: &text.words[window],
                    rows,
                })
                .collect();
            words_of(&mut sequences)
        };
        let mut want = Words::default();
        want.add(102, [2, 2]);
        want.add(100, []);
        want.sequence([0, 1, 0]);
        want.add(101, [1]);
        want.add(100, []);
        want.sequence([2, 2, 3]);
        assert_eq!(pass([0..3, 0..3]), want);

        let mut want = Words::default();
        want.add(102, [2, 2]);
        want.add(101, [1]);
        want.sequence([0, 1]);
        want.sequence([]);
        assert_eq!(pass([2..4, 3..3]), want);
    }
}
