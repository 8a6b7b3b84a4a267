//! A tagger of words on a GPU: word and character LSTM, dense layer and conditional random field, in one pass.
//!
//! On the CPU the same network is put together from [`BiLstm`](super::BiLstm) and [`Dense`](super::Dense), with what a word
//! brings along kept for the next text. On a GPU a pass makes the words anew, which takes less time than looking them up
//! would take the host, and only tags come back.

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda;
use crate::Backend;

/// Sizes of a tagger.
#[derive(Clone, Copy, Debug)]
pub struct TaggerConfig {
    /// Words that there are embeddings for.
    pub words: usize,
    /// Values of a word's embedding.
    pub word_size: usize,
    /// Characters that there are embeddings for.
    pub chars: usize,
    /// Values of a character's embedding.
    pub char_size: usize,
    /// Units of a direction of the character LSTM.
    pub char_hidden: usize,
    /// Units of a direction of the word LSTM.
    pub word_hidden: usize,
    /// Units of the dense layer.
    pub dense: usize,
    /// Tags of a word.
    pub tags: usize,
}

/// Words, and the sequences that they stand in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The embedding of each word.
    pub(crate) embeddings: Vec<u32>,
    /// How many characters each word has; they lie end to end.
    pub(crate) spellings: Vec<usize>,
    pub(crate) chars: Vec<u32>,
    /// The words of all sequences, end to end.
    pub(crate) rows: Vec<u32>,
    /// How many of them each sequence has.
    pub(crate) lengths: Vec<usize>,
}

/// A tagger in the memory of a GPU.
#[derive(Debug)]
pub struct Tagger {
    #[cfg(feature = "cuda")]
    device: cuda::Tagger,
    #[cfg(not(feature = "cuda"))]
    device: std::convert::Infallible,
}

impl Words {
    /// Adds a word by the numbers of its embedding and its characters; gives its own. A word that occurs in several
    /// places is best added once.
    pub fn add(&mut self, embedding: u32, chars: impl IntoIterator<Item = u32>) -> u32 {
        let before = self.chars.len();
        self.chars.extend(chars);
        self.spellings.push(self.chars.len() - before);
        self.embeddings.push(embedding);
        (self.embeddings.len() - 1) as u32
    }

    /// Adds a sequence of words that were or will be added.
    pub fn sequence(&mut self, words: impl IntoIterator<Item = u32>) {
        let before = self.rows.len();
        self.rows.extend(words);
        self.lengths.push(self.rows.len() - before);
    }

    /// Refuses numbers of what is not there.
    ///
    /// # Errors
    /// A word, a character or an embedding does not exist.
    #[cfg_attr(
        not(any(test, feature = "cuda")),
        expect(dead_code, reason = "for devices")
    )]
    pub(crate) fn check(&self, config: &TaggerConfig) -> Result<()> {
        let below = |what: &str, numbers: &[u32], limit: usize| match numbers
            .iter()
            .find(|&&number| number as usize >= limit)
        {
            Some(number) => bail!("tagger: expected {what} below {limit}, got {number}"),
            None => Ok(()),
        };
        below("a word's embedding", &self.embeddings, config.words)?;
        below("a character", &self.chars, config.chars)?;
        below("a word", &self.rows, self.embeddings.len())
    }
}

impl Tagger {
    /// Reads torch's tensors: `word_embedding` and `char_embedding` with `weight`, the LSTMs `char_lstm` and `word_lstm`, the
    /// layers `dense` and `emission`, and `crf` with `start`, `end` and `transitions`. A word's input is its embedding and
    /// then the final states of its characters, forward and backward.
    ///
    /// # Errors
    /// The backend is not a GPU, a tensor is missing or has another shape, or a size is beyond the kernels'.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "this build has no device to load it on")
    )]
    pub fn load(backend: &Backend, vb: &VarBuilder<'_>, config: &TaggerConfig) -> Result<Self> {
        match &backend.0 {
            #[cfg(feature = "cuda")]
            crate::backend::Kind::Cuda(gpu) => Ok(Self {
                device: cuda::Tagger::load(gpu, vb, config)?,
            }),
            crate::backend::Kind::Cpu(_) => {
                bail!("expected a GPU to load the tagger on, got the CPU")
            }
        }
    }

    /// The best tag of each row, sequence after sequence (Viterbi's algorithm); of equal ones, the lower.
    ///
    /// # Errors
    /// A number is of something that does not exist, or the device fails.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "there is no such tagger")
    )]
    pub fn tags(&self, words: &Words) -> Result<Vec<u8>> {
        #[cfg(feature = "cuda")]
        return self.device.tags(words);
        #[cfg(not(feature = "cuda"))]
        match self.device {}
    }

    /// The scores of each row's tags before the random field, `[rows, tags]`.
    ///
    /// # Errors
    /// As [`Self::tags`].
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "there is no such tagger")
    )]
    pub fn scores(&self, words: &Words) -> Result<Vec<f32>> {
        #[cfg(feature = "cuda")]
        return self.device.scores(words);
        #[cfg(not(feature = "cuda"))]
        match self.device {}
    }
}
