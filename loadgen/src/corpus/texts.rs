//! The text corpora: sentences and film reviews drawn, joined and, for segmentation, stripped of punctuation.

use std::collections::HashSet;

use super::{CorpusKind, rng::Rng};
use crate::error::{Error, Result};

galley_core::embed!(NER, "../../data/texts/ner.txt.zst");
galley_core::embed!(SENTIMENT, "../../data/texts/sentiment.txt.zst");

/// The words of a review, each as likely as the others: about twenty equal parts of the lengths that people write, log-normal with
/// a median of 173 and a mean of 230 words, as the reviews of IMDb have them.
const REVIEW_WORDS: [usize; 20] = [
    39, 58, 73, 85, 98, 110, 123, 136, 150, 165, 181, 200, 220, 244, 272, 306, 350, 412, 513, 760,
];

/// An example: what is sent, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Example {
    /// The payload.
    pub(super) text: String,
    /// The label of the snippets, in the sentiment corpus.
    pub(super) label: Option<u8>,
    /// The sentences that were run together, in the segmentation corpus.
    pub(super) sentences: Vec<String>,
}

/// The texts that a corpus is drawn from, read once.
enum Source {
    Ner(Vec<String>),
    /// Negative snippets, then positive ones.
    Sentiment([Vec<String>; 2]),
    /// The same, for longer texts.
    Reviews([Vec<String>; 2]),
    Segment(Vec<String>),
}

/// The first `count` examples of a text corpus. No text occurs twice.
///
/// # Errors
/// The bundled texts are damaged.
pub(super) fn generate(kind: CorpusKind, count: usize, seed: u64) -> Result<Vec<Example>> {
    let source = Source::read(kind)?;
    let mut seen = HashSet::with_capacity(count);
    let mut examples = Vec::with_capacity(count);
    for index in 0..count {
        let example = (0..100)
            .map(|attempt| source.draw(&mut Rng::of(seed, index, attempt)))
            .find(|example| !seen.contains(&example.text))
            .ok_or_else(|| {
                Error::option(
                    "--examples",
                    format!(
                        "the {} corpus has only {index} distinct examples",
                        kind.name()
                    ),
                )
            })?;
        seen.insert(example.text.clone());
        examples.push(example);
    }
    Ok(examples)
}

impl Source {
    fn read(kind: CorpusKind) -> Result<Self> {
        Ok(match kind {
            CorpusKind::Sentiment => Self::Sentiment(by_label()?),
            CorpusKind::Reviews => Self::Reviews(by_label()?),
            CorpusKind::Segment => Self::Segment(
                snippets()?
                    .iter()
                    .map(|(_, text)| strip(text))
                    .filter(|text| text.split(' ').count() >= 3)
                    .collect(),
            ),
            CorpusKind::Ner | CorpusKind::Images => Self::Ner(
                lines("ner.txt.zst", &NER)?
                    .lines()
                    .map(Into::into)
                    .collect(),
            ),
        })
    }

    fn draw(&self, rng: &mut Rng) -> Example {
        let (label, sentences, keep) = match self {
            Self::Ner(texts) => {
                let count = 1 + rng.below(4);
                (None, draw_from(texts, count, rng), false)
            }
            Self::Sentiment(by_label) => {
                let label = rng.below(2);
                let count = 1 + rng.below(3);
                let texts = draw_from(&by_label[label], count, rng);
                (Some(label as u8), texts, false)
            }
            Self::Reviews(by_label) => {
                let label = rng.below(2);
                let wanted = REVIEW_WORDS[rng.below(REVIEW_WORDS.len())];
                let (mut texts, mut words) = (Vec::new(), 0);
                while words < wanted {
                    let text = by_label[label][rng.below(by_label[label].len())].clone();
                    words += text.split_whitespace().count();
                    texts.push(text);
                }
                (Some(label as u8), texts, false)
            }
            Self::Segment(texts) => {
                let count = 3 + rng.below(6);
                (None, draw_from(texts, count, rng), true)
            }
        };
        Example {
            text: sentences.join(" "),
            label,
            sentences: if keep { sentences } else { Vec::new() },
        }
    }
}

fn draw_from(texts: &[String], count: usize, rng: &mut Rng) -> Vec<String> {
    (0..count)
        .map(|_| texts[rng.below(texts.len())].clone())
        .collect()
}

fn lines(what: &'static str, compressed: &[u8]) -> Result<String> {
    let bad = |reason: String| Error::Bundled { what, reason };
    let bytes = zstd::decode_all(compressed).map_err(|error| bad(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| bad(error.to_string()))
}

fn snippets() -> Result<Vec<(bool, String)>> {
    lines("sentiment.txt.zst", &SENTIMENT)?
        .lines()
        .map(|line| match line.split_once('\t') {
            Some((label @ ("0" | "1"), text)) => Ok((label == "1", text.to_owned())),
            _ => Err(Error::Bundled {
                what: "sentiment.txt.zst",
                reason: format!("expected a label, a tab and a text, got {line:?}"),
            }),
        })
        .collect()
}

/// The snippets, negative ones first.
fn by_label() -> Result<[Vec<String>; 2]> {
    let mut by_label = [Vec::new(), Vec::new()];
    for (label, text) in snippets()? {
        by_label[usize::from(label)].push(text);
    }
    Ok(by_label)
}

/// Lower case, letters, digits and apostrophes only, one space between words.
fn strip(text: &str) -> String {
    let kept: String = text
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || c == '\'' {
                c
            } else {
                ' '
            }
        })
        .collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use sha2::{Digest, Sha256};

    use super::*;

    /// The payload as the corpus's published digest has it: JSON with `", "` and `": "`.
    fn payload(index: usize, example: &Example) -> String {
        let text = |text: &str| serde_json::to_string(text).unwrap();
        let mut json = format!("{{\"id\": {index}, ");
        if let Some(label) = example.label {
            write!(json, "\"label\": {label}, ").unwrap();
        }
        write!(json, "\"text\": {}", text(&example.text)).unwrap();
        if !example.sentences.is_empty() {
            let sentences: Vec<_> = example.sentences.iter().map(|each| text(each)).collect();
            write!(json, ", \"sentences\": [{}]", sentences.join(", ")).unwrap();
        }
        json + "}"
    }

    fn digest(kind: CorpusKind) -> String {
        let mut sha = Sha256::new();
        for (index, example) in generate(kind, 8192, 1).unwrap().iter().enumerate() {
            sha.update(payload(index, example));
        }
        format!("{:x}", sha.finalize())
    }

    #[test]
    fn corpora_have_their_published_digests() {
        assert_eq!(
            digest(CorpusKind::Ner),
            "c45abf82286c74797d825e04178bd9e41217b584494f07846b7d08a3ffd1e965"
        );
        assert_eq!(
            digest(CorpusKind::Sentiment),
            "64d3b03d199acbb2a1a02892ca9e13c7c9c5c65deaeaab979aa7b46e96c58f31"
        );
        assert_eq!(
            digest(CorpusKind::Segment),
            "237cf96bd110c45e7cbac28a2cc5c24e6b24aecb5f3eb8b5bdd1d56ddfb806af"
        );
    }

    #[test]
    fn reviews_are_as_long_as_people_write_them() {
        let reviews = generate(CorpusKind::Reviews, 4000, 1).unwrap();
        let mut words: Vec<usize> = reviews
            .iter()
            .map(|review| review.text.split_whitespace().count())
            .collect();
        words.sort_unstable();
        let mean = words.iter().sum::<usize>() as f64 / words.len() as f64;
        assert!((225.0..245.0).contains(&mean), "{mean}");
        assert!((170..195).contains(&words[2000]), "{}", words[2000]);
        assert!(words[0] >= 39 && words[3999] > 700, "{words:?}");
    }
}
