//! The network on the CPU: words in, a score for each label of each word out.
//!
//! A word's vector is its embedding and what the character LSTM makes of its spelling, so it does not depend on the
//! text; neither does the first product of the word LSTM. Both are made once for a word and kept in a [`Memo`].

use std::collections::HashMap;

use candle_core::{Device, Result};
use candle_nn::VarBuilder;
use galley_nn::lstm::{BiLstm, Dense, Gates};

use crate::{config::Config, crf::LABELS, vocabulary::parts};

/// A memo with more words than this is emptied before the next round. It takes about 3.6 KB a word.
const MEMO_WORDS: usize = 4096;

/// Word and character BiLSTM with a dense layer.
pub(crate) struct Model {
    /// `[vocabulary, size]`.
    words: Vec<f32>,
    word_size: usize,
    chars: BiLstm,
    /// The character LSTM's input side for every character there is.
    char_gates: Gates,
    lstm: BiLstm,
    dense: Dense,
    emission: Dense,
}

/// The word LSTM's input side for words that have been met.
#[derive(Default)]
pub(crate) struct Memo {
    rows: HashMap<Box<[u8]>, u32>,
    gates: Gates,
    /// Goes up when rows that were given out lose their meaning.
    epoch: u64,
}

impl Model {
    pub(crate) fn load(vb: &VarBuilder<'_>, config: &Config) -> Result<Self> {
        let (chars, char_size) = (config.char_vocab_size, config.char_embedding_dim);
        let embedding = table(vb, "char_embedding", chars, char_size)?;
        let char_lstm = BiLstm::load(&vb.pp("char_lstm"), char_size, config.char_lstm_hidden)?;
        let mut char_gates = Gates::default();
        let rows: Vec<&[f32]> = embedding.chunks_exact(char_size).collect();
        char_lstm.project(&rows, &mut char_gates);

        let word_size = config.word_embedding_dim;
        let input = word_size + 2 * config.char_lstm_hidden;
        let hidden = config.word_lstm_hidden;
        Ok(Self {
            words: table(vb, "word_embedding", config.vocab_size, word_size)?,
            word_size,
            chars: char_lstm,
            char_gates,
            lstm: BiLstm::load(&vb.pp("word_lstm"), input, hidden)?,
            dense: Dense::load(&vb.pp("dense"), 2 * hidden, config.dense_dim)?,
            emission: Dense::load(&vb.pp("emission"), config.dense_dim, LABELS)?,
        })
    }

    /// The scores of packed sequences' words; `rows` are those that the memo gave for them.
    pub(crate) fn emissions(
        &self,
        memo: &Memo,
        rows: &[u32],
        lengths: &[usize],
    ) -> Vec<[f32; LABELS]> {
        let states = self.lstm.run(&memo.gates, rows, lengths, true).output;
        let dense = self.dense.forward_tanh(&states);
        let scores = self.emission.forward(&dense);
        let (scores, rest) = scores.as_chunks();
        debug_assert!(rest.is_empty(), "a row has one score for each label");
        scores.to_vec()
    }

    /// The words' vectors `[words, size + 2 * character units]`.
    fn features(&self, keys: &[&[u8]]) -> Vec<f32> {
        let (hidden, words) = (self.chars.hidden(), keys.len());
        let spellings = keys.iter().map(|key| parts(key).1);
        let lengths: Vec<usize> = spellings.clone().map(<[u8]>::len).collect();
        let chars: Vec<u32> = spellings.flatten().copied().map(u32::from).collect();
        let states = self
            .chars
            .run(&self.char_gates, &chars, &lengths, false)
            .hidden;
        let mut features = Vec::with_capacity(words * self.lstm.input());
        for (w, key) in keys.iter().enumerate() {
            let word = parts(key).0 as usize;
            features.extend_from_slice(&self.words[word * self.word_size..][..self.word_size]);
            for direction in 0..2 {
                features.extend_from_slice(&states[(direction * words + w) * hidden..][..hidden]);
            }
        }
        features
    }
}

impl Memo {
    /// Rows given out are good as long as this stays the same.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Makes sure that it does not grow without bound. Rows given out earlier may lose their meaning.
    pub(crate) fn trim(&mut self) {
        if self.gates.rows() > MEMO_WORDS {
            self.rows.clear();
            self.gates.clear();
            self.epoch += 1;
        }
    }

    /// Rows for words, by their keys.
    pub(crate) fn rows<'k>(
        &mut self,
        model: &Model,
        keys: impl Iterator<Item = &'k [u8]>,
    ) -> Vec<u32> {
        let known = self.gates.rows();
        let mut new: Vec<&[u8]> = Vec::new();
        let rows = keys
            .map(|key| match self.rows.get(key) {
                Some(&row) => row,
                None => {
                    let row = (known + new.len()) as u32;
                    self.rows.insert(key.into(), row);
                    new.push(key);
                    row
                }
            })
            .collect();
        if !new.is_empty() {
            let features = model.features(&new);
            let vectors: Vec<&[f32]> = features.chunks_exact(model.lstm.input()).collect();
            model.lstm.project(&vectors, &mut self.gates);
        }
        rows
    }
}

/// An embedding's values on the host.
fn table(vb: &VarBuilder<'_>, name: &str, rows: usize, size: usize) -> Result<Vec<f32>> {
    vb.pp(name)
        .get((rows, size), "weight")?
        .to_device(&Device::Cpu)?
        .flatten_all()?
        .to_vec1()
}
