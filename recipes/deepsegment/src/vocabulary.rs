//! From a word to its indices: one in the vocabulary, and one for each character.

use std::collections::HashMap;

use galley_core::LoadError;

use crate::config::Config;

/// Names in `vocab.txt` and `chars.json` that stand for something else than themselves.
const RESERVED: [&str; 2] = ["<pad>", "<unk>"];

/// The words and characters that the weights know.
pub(crate) struct Vocabulary {
    words: HashMap<Box<str>, u32>,
    lines: Vec<Box<str>>,
    unknown_word: u32,
    ascii: [u8; 128],
    others: HashMap<char, u8>,
    unknown_char: u8,
    char_map: HashMap<char, char>,
    max_word_chars: usize,
}

/// Names of the two files, for messages, and what they hold.
pub(crate) struct Files<'a> {
    pub(crate) vocab: (&'a str, &'a [u8]),
    pub(crate) chars: (&'a str, &'a [u8]),
}

impl Vocabulary {
    /// Reads `vocab.txt` (the line is the index) and `chars.json` (the position is the index).
    pub(crate) fn read(config: &Config, files: &Files<'_>) -> Result<Self, LoadError> {
        let (name, bytes) = files.vocab;
        let text = std::str::from_utf8(bytes).map_err(|error| LoadError::invalid(name, error))?;
        let lines: Vec<Box<str>> = text.lines().map(Into::into).collect();
        expect_len(name, "lines", config.vocab_size, lines.len())?;
        let (name, bytes) = files.chars;
        let chars: Vec<String> =
            serde_json::from_slice(bytes).map_err(|error| LoadError::invalid(name, error))?;
        expect_len(name, "entries", config.char_vocab_size, chars.len())?;
        let unknown_char = u8::try_from(chars.len() - 1).map_err(|_| {
            LoadError::invalid(name, format!("expected up to 256, got {}", chars.len()))
        })?;

        let mut vocabulary = Self {
            words: HashMap::with_capacity(lines.len()),
            unknown_word: (lines.len() - 1) as u32,
            lines,
            ascii: [unknown_char; 128],
            others: HashMap::new(),
            unknown_char,
            char_map: config.char_map().clone(),
            max_word_chars: config.max_word_chars(),
        };
        for (index, word) in vocabulary.lines.iter().enumerate() {
            if !RESERVED.contains(&&**word) {
                vocabulary.words.insert(word.clone(), index as u32);
            }
        }
        for (index, entry) in (0..=unknown_char).zip(&chars) {
            let mut points = entry.chars();
            match (points.next(), points.next()) {
                (Some(c), None) if c.is_ascii() => vocabulary.ascii[c as usize] = index,
                (Some(c), None) => drop(vocabulary.others.insert(c, index)),
                _ if RESERVED.contains(&entry.as_str()) => (),
                _ => {
                    return Err(LoadError::invalid(
                        name,
                        format!("expected single characters, got {entry:?}"),
                    ));
                }
            }
        }
        Ok(vocabulary)
    }

    /// Appends the word's indices to `key`: four bytes, little-endian, of the word's, then a byte for each character's.
    ///
    /// Words with the same key are the same to the network.
    pub(crate) fn key(&self, word: &str, key: &mut Vec<u8>) {
        let fold = |c: char| {
            if c.is_ascii() {
                c
            } else {
                self.char_map.get(&c).copied().unwrap_or(c)
            }
        };
        let index = if word.is_ascii() {
            self.word(&word.to_ascii_lowercase())
        } else {
            let folded: String = word.chars().map(fold).collect();
            self.word(&folded.to_lowercase())
        };
        key.extend_from_slice(&index.to_le_bytes());
        let chars = word.chars().take(self.max_word_chars);
        key.extend(chars.map(|c| self.char(fold(c))));
    }

    fn word(&self, lower: &str) -> u32 {
        self.words.get(lower).copied().unwrap_or(self.unknown_word)
    }

    fn char(&self, c: char) -> u8 {
        if c.is_ascii() {
            self.ascii[c as usize]
        } else {
            self.others.get(&c).copied().unwrap_or(self.unknown_char)
        }
    }

    /// The word of an index between the padding and the unknown word, the most frequent first.
    pub(crate) fn known(&self, index: usize) -> &str {
        &self.lines[1 + index % (self.lines.len() - 2).max(1)]
    }
}

/// A key's parts: the word's index, and those of its characters.
pub(crate) fn parts(key: &[u8]) -> (u32, &[u8]) {
    let (word, chars) = key.split_first_chunk().expect("a key begins with a word");
    (u32::from_le_bytes(*word), chars)
}

fn expect_len(name: &str, what: &str, expected: usize, got: usize) -> Result<(), LoadError> {
    if expected == got && got > 2 {
        return Ok(());
    }
    Err(LoadError::invalid(
        name,
        format!("expected {expected} {what} (3 or more), got {got}"),
    ))
}
