//! Texts of any length, cut in windows.
//!
//! A window ends somewhere, most likely within a sentence. So its last sentence is not answered yet, but begins the
//! next window, until the text ends. Windows of one text therefore come one after the other, and a batch runs in
//! *rounds*: in each, the current windows of all texts that are not at their end are one packed batch.

use crate::{
    crf::{Crf, LABELS},
    model::{Memo, Model},
    text::Text,
};

/// A row that is not known.
const UNKNOWN: u32 = u32::MAX;

/// Everything that cuts.
pub(crate) struct Segmenter {
    pub(crate) model: Model,
    pub(crate) crf: Crf,
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
    /// The memo's row of each distinct word, as far as known, in the epoch.
    rows: Vec<u32>,
    epoch: u64,
    /// The window, in words.
    start: usize,
    end: usize,
    /// First words of the sentences that are certain.
    sentences: Vec<u32>,
}

impl Segmenter {
    /// The first words of each text's sentences.
    pub(crate) fn segment(
        &self,
        texts: &[&Text],
        windows: Windows,
        memo: &mut Memo,
    ) -> Vec<Vec<u32>> {
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
            self.round(&mut active, windows, memo);
        }
        all.into_iter().map(|progress| progress.sentences).collect()
    }

    /// Runs the windows that are open and closes them.
    fn round(&self, active: &mut [&mut Progress<'_>], windows: Windows, memo: &mut Memo) {
        learn(active, &self.model, memo);
        let rows: Vec<u32> = active
            .iter()
            .flat_map(|progress| progress.window().iter().map(|&w| progress.rows[w as usize]))
            .collect();
        let lengths: Vec<usize> = active
            .iter()
            .map(|progress| progress.window().len())
            .collect();
        let mut emissions = self.model.emissions(memo, &rows, &lengths).into_iter();
        for (progress, length) in active.iter_mut().zip(lengths) {
            let emissions: Vec<[f32; LABELS]> = emissions.by_ref().take(length).collect();
            let labels = self.crf.best(&emissions);
            let starts = labels
                .iter()
                .enumerate()
                .filter(|(i, label)| *i == 0 || **label == self.boundary)
                .map(|(i, _)| i);
            progress.close(starts, windows.max_prefix);
        }
    }
}

/// Finds the rows of all words of the windows, all new words being computed together.
fn learn(active: &mut [&mut Progress<'_>], model: &Model, memo: &mut Memo) {
    let mut wanted = Vec::new();
    for (place, progress) in active.iter_mut().enumerate() {
        if progress.epoch != memo.epoch() {
            progress.rows.fill(UNKNOWN);
            progress.epoch = memo.epoch();
        }
        let text = progress.text;
        for &word in &text.words[progress.start..progress.end] {
            if progress.rows[word as usize] == UNKNOWN {
                wanted.push((place, word));
            }
        }
    }
    let texts: Vec<&Text> = active.iter().map(|progress| progress.text).collect();
    let keys = wanted
        .iter()
        .map(|&(place, word)| texts[place].distinct.get(word));
    let rows = memo.rows(model, keys);
    for ((place, word), row) in wanted.into_iter().zip(rows) {
        active[place].rows[word as usize] = row;
    }
}

impl<'a> Progress<'a> {
    fn new(text: &'a Text) -> Self {
        Self {
            text,
            rows: vec![UNKNOWN; text.distinct.len()],
            // Not the memo's, whose rows have not been asked for yet.
            epoch: u64::MAX,
            start: 0,
            end: 0,
            sentences: Vec::new(),
        }
    }

    fn window(&self) -> &[u32] {
        &self.text.words[self.start..self.end]
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
