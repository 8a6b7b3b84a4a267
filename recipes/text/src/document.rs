//! A text as the encoder takes it: tokens, and the windows in which they are read.

use galley_core::synthetic;
use galley_nn::text::Packed;

use crate::{
    tokenizer::{Tokenizer, Tokens},
    windows::{Window, windows},
};

/// Tokens that neighbouring windows share, if the model takes at least four times as many.
const OVERLAP: usize = 128;

/// Ids below are special or unused in BERT's vocabularies.
const FIRST_WORD_ID: usize = 1000;

/// A tokenized text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its tokens, special ones left out.
    pub tokens: Tokens,
    /// The windows in which a model reads them; more than one where the text is longer than it takes.
    pub windows: Vec<Window>,
    /// How many tokens the model reads: those of all windows, with special ones.
    pub cost: u32,
}

impl Document {
    /// Cuts a text's tokens for a model that reads at most `max_positions` of them at once.
    pub(crate) fn new(tokens: Tokens, tokenizer: &Tokenizer, max_positions: usize) -> Self {
        let specials = tokenizer.specials();
        let capacity = max_positions.saturating_sub(specials).max(1);
        let windows = windows(tokens.ids.len(), capacity, OVERLAP.min(capacity / 4));
        let cost: usize = windows
            .iter()
            .map(|window| window.tokens.len() + specials)
            .sum();
        Self {
            tokens,
            windows,
            cost: u32::try_from(cost).unwrap_or(u32::MAX),
        }
    }

    /// A made-up text of `size` tokens, special ones counted, each of one letter.
    pub(crate) fn sample(
        size: usize,
        seed: u64,
        tokenizer: &Tokenizer,
        max_positions: usize,
    ) -> Self {
        let count = size.saturating_sub(tokenizer.specials());
        let vocabulary = tokenizer.vocabulary();
        let first = FIRST_WORD_ID.min(vocabulary / 2);
        let tokens = Tokens {
            ids: synthetic::raw24("sample", seed)
                .take(count)
                .map(|raw| (first + raw as usize % (vocabulary - first).max(1)) as u32)
                .collect(),
            offsets: (0..count).map(|i| (i, i + 1)).collect(),
        };
        Self::new(tokens, tokenizer, max_positions)
    }
}

/// All windows of a batch, document after document, packed into runs of at most `most` tokens, or of one window.
pub(crate) fn pack<'a>(
    batch: impl IntoIterator<Item = &'a Document>,
    tokenizer: &Tokenizer,
    most: usize,
) -> Vec<Packed> {
    let mut runs: Vec<Vec<&[u32]>> = Vec::new();
    let mut room = 0;
    for document in batch {
        for window in &document.windows {
            let size = window.tokens.len() + tokenizer.specials();
            let ids = &document.tokens.ids[window.tokens.clone()];
            match runs.last_mut() {
                Some(run) if size <= room => run.push(ids),
                _ => {
                    runs.push(vec![ids]);
                    room = most.max(size);
                }
            }
            room -= size;
        }
    }
    runs.into_iter()
        .map(|run| Packed::new(run.into_iter().map(|ids| tokenizer.framed(ids))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WordPieceSettings;

    #[test]
    fn a_long_text_is_read_in_bounded_runs() {
        let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n";
        let tokenizer = Tokenizer::from_vocab(vocab, &WordPieceSettings::default()).unwrap();
        let short = Document::sample(10, 1, &tokenizer, 512);
        assert_eq!((short.cost, short.windows.len()), (10, 1));
        let tokens = tokenizer.tokens(&"a b ".repeat(20_000)).unwrap();
        let long = Document::new(tokens, &tokenizer, 512);
        assert_eq!(long.tokens.ids.len(), 40_000);
        let runs = pack([&short, &long, &short], &tokenizer, 8192);
        assert!(runs.iter().all(|run| run.ids().len() <= 8192));
        let tokens: usize = runs.iter().map(|run| run.ids().len()).sum();
        assert_eq!(tokens as u32, long.cost + 2 * short.cost);
        let windows: usize = runs.iter().map(|run| run.lengths().count()).sum();
        assert_eq!(windows, long.windows.len() + 2);
        let last = runs.last().unwrap();
        let texts: Vec<_> = last
            .offsets()
            .windows(2)
            .map(|w| &last.ids()[w[0]..w[1]])
            .collect();
        assert_eq!(texts[texts.len() - 1][1..9], short.tokens.ids);
        assert_eq!((last.ids()[0], last.ids()[last.ids().len() - 1]), (2, 3));
    }
}
