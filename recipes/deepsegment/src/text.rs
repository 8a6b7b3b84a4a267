//! A text as the network sees it: words, and which of them are the same.

use std::{collections::HashMap, ops::Range};

use crate::vocabulary::Vocabulary;

/// The distinct words of something, as keys ([`Vocabulary::key`]) end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    /// Adds what `write` appends, and gives its number.
    pub(crate) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len() as u32);
        (self.ends.len() - 1) as u32
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, number: u32) -> &[u8] {
        let number = number as usize;
        let start = if number == 0 {
            0
        } else {
            self.ends[number - 1] as usize
        };
        &self.bytes[start..self.ends[number] as usize]
    }
}

/// A text, split into words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    text: String,
    /// Where each word begins and ends in the text, in bytes.
    spans: Vec<(u32, u32)>,
    /// For each word its number among the distinct ones.
    pub(crate) words: Vec<u32>,
    pub(crate) distinct: Keys,
}

impl Text {
    /// Splits a text on runs of Unicode white space. The text is shorter than 4 GiB.
    pub(crate) fn new(text: String, vocabulary: &Vocabulary) -> Self {
        let mut distinct = Keys::default();
        let (mut spans, mut words) = (Vec::new(), Vec::new());
        let mut seen: HashMap<&str, u32> = HashMap::new();
        for word in text.split_whitespace() {
            let start = word.as_ptr() as usize - text.as_ptr() as usize;
            spans.push((start as u32, (start + word.len()) as u32));
            words.push(
                *seen
                    .entry(word)
                    .or_insert_with(|| distinct.add(|key| vocabulary.key(word, key))),
            );
        }
        drop(seen);
        Self {
            text,
            spans,
            words,
            distinct,
        }
    }

    /// Words of it.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// Some of its words as they were written, with single spaces between them.
    pub(crate) fn join(&self, words: Range<usize>) -> String {
        let spans = &self.spans[words];
        let mut joined = String::with_capacity(
            spans
                .iter()
                .map(|(start, end)| (end - start) as usize + 1)
                .sum(),
        );
        for (i, &(start, end)) in spans.iter().enumerate() {
            if i > 0 {
                joined.push(' ');
            }
            joined.push_str(&self.text[start as usize..end as usize]);
        }
        joined
    }
}
