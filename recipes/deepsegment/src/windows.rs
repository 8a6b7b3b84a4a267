//! Texts of any length, cut in windows.
//!
//! A window ends somewhere, most likely within a sentence. So its last sentence is not answered yet, but begins the
//! next window, until the text ends. Windows of one text therefore come one after the other, and a batch runs in
//! *rounds*: in each, the current windows of all texts that are not at their end are one packed batch.

use candle_core::Result;

use crate::{
    model::Memo,
    network::{Network, Rows, Sequence},
    text::Text,
};

/// Everything that cuts.
pub(crate) struct Segmenter {
    pub(crate) network: Network,
    /// The label of a word that begins a sentence.
    pub(crate) boundary: u8,
}

/// How a text is cut in windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    /// Words of a window, at the least.
    pub(crate) words: usize,
    /// A sentence that is this long ends with its window.
    pub(crate) max_prefix: usize,
}

/// Where the work on a text has come to.
struct Progress<'a> {
    text: &'a Text,
    rows: Rows,
    /// The window, in words.
    start: usize,
    end: usize,
    /// First words of the sentences that are certain.
    sentences: Vec<u32>,
}

impl Segmenter {
    /// The first words of each text's sentences.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn segment(
        &self,
        texts: &[&Text],
        windows: Windows,
        memo: &mut Memo,
    ) -> Result<Vec<Vec<u32>>> {
        let mut all: Vec<Progress<'_>> = texts.iter().map(|text| Progress::new(text)).collect();
        loop {
            memo.trim();
            let mut active: Vec<&mut Progress<'_>> = all
                .iter_mut()
                .filter(|progress| progress.end < progress.text.len())
                .collect();
            if active.is_empty() {
                break;
            }
            for progress in &mut active {
                progress.open(windows.words);
            }
            self.round(&mut active, windows, memo)?;
        }
        Ok(all.into_iter().map(|progress| progress.sentences).collect())
    }

    /// Runs the windows that are open and closes them.
    fn round(
        &self,
        active: &mut [&mut Progress<'_>],
        windows: Windows,
        memo: &mut Memo,
    ) -> Result<()> {
        let mut sequences: Vec<Sequence<'_>> = active
            .iter_mut()
            .map(|progress| progress.sequence())
            .collect();
        let labels = self.network.labels(&mut sequences, memo)?;
        let mut labels = labels.as_slice();
        for progress in active {
            let (own, others) = labels.split_at(progress.end - progress.start);
            labels = others;
            let starts = own
                .iter()
                .enumerate()
                .filter(|(i, label)| *i == 0 || **label == self.boundary)
                .map(|(i, _)| i);
            progress.close(starts, windows.max_prefix);
        }
        Ok(())
    }
}

impl<'a> Progress<'a> {
    fn new(text: &'a Text) -> Self {
        Self {
            text,
            rows: Rows::new(text),
            start: 0,
            end: 0,
            sentences: Vec::new(),
        }
    }

    /// The window.
    fn sequence(&mut self) -> Sequence<'_> {
        Sequence {
            text: self.text,
            words: &self.text.words[self.start..self.end],
            rows: &mut self.rows,
        }
    }

    /// Adds the words that make the window whole, or a whole window where the sentence so far is one already.
    fn open(&mut self, words: usize) {
        let prefix = self.end - self.start;
        let take = if prefix < words {
            words - prefix
        } else {
            words
        };
        self.end = self.end.saturating_add(take).min(self.text.len());
    }

    /// Takes the window's sentences, whose first words are `starts`, and keeps the last one open if the text goes on.
    fn close(&mut self, starts: impl Iterator<Item = usize>, max_prefix: usize) {
        let first = self.start;
        self.sentences
            .extend(starts.map(|start| (first + start) as u32));
        if self.end == self.text.len() {
            return;
        }
        if let Some(&last) = self.sentences.last() {
            self.start = last as usize;
        }
        if self.end - self.start >= max_prefix {
            self.start = self.end;
        } else {
            // It will be found again as the first sentence of the next window.
            self.sentences.pop();
        }
    }
}
