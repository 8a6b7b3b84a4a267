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

/// What stands between runs of white space as Python's `str.split()` sees it, by which the model was trained: Unicode's, and
/// the four separators of ASCII.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
        .filter(|word| !word.is_empty())
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
    /// Splits a text into its [`words`]. The text is shorter than 4 GiB.
    pub(crate) fn new(text: String, vocabulary: &Vocabulary) -> Self {
        let mut distinct = Keys::default();
        let (mut spans, mut words) = (Vec::new(), Vec::new());
        let mut seen: HashMap<&str, u32> = HashMap::new();
        for word in self::words(&text) {
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

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_split_where_python_splits_them() {
        // Every character for which `str.isspace()` holds in Python 3.13.
        let spaces = "\t\n\u{b}\u{c}\r\u{1c}\u{1d}\u{1e}\u{1f} \u{85}\u{a0}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
            \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";
        assert_eq!(spaces.chars().count(), 29);
        for c in '\0'..=char::MAX {
            let text = format!("{c}a{c}{c}b{c}");
            let count = words(&text).count();
            let expected = match spaces.contains(c) {
                true => 2,
                false => 1,
            };
            assert_eq!(count, expected, "{c:?}");
        }
        assert_eq!(words(spaces).count(), 0);
    }
}
