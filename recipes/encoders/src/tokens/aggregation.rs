//! From tokens with probabilities to entities, as the transformers library's `TokenClassificationPipeline` does it
//! (`gather_pre_entities`, `aggregate_words`, `group_entities`), so that its users find the same answers here.
//!
//! `none` gives each token that is not labelled O. `simple` takes each token's best label and joins neighbours of one
//! type. The others decide for whole words first: by the word's `first` token, by the `average` of its tokens'
//! probabilities, or by the token with the `max` probability.

use std::{borrow::Cow, str::FromStr};

use galley_core::Entity;
use galley_text::Tokenizer;

/// The label of tokens outside of any entity.
const OUTSIDE: &str = "O";

/// How tokens become entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregation {
    /// Not at all: tokens are the answer.
    None,
    /// Neighbouring tokens of one type.
    Simple,
    /// Neighbouring words of one type, a word having its first token's label.
    First,
    /// The same, a word having the label that is likeliest on its tokens' average.
    Average,
    /// The same, a word having the label of its most certain token.
    Max,
}

impl FromStr for Aggregation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "none" => Self::None,
            "simple" => Self::Simple,
            "first" => Self::First,
            "average" => Self::Average,
            "max" => Self::Max,
            _ => {
                return Err(format!(
                    "expected none, simple, first, average or max, got {name:?}"
                ));
            }
        })
    }
}

/// One token with what the model thinks of it.
#[derive(Clone, Debug)]
pub(crate) struct ScoredToken<'a> {
    /// The token, `##ing`; for an unknown one its slice of the text.
    pub(crate) word: &'a str,
    /// Each label's probability.
    pub(crate) probabilities: Vec<f32>,
    /// Its index in the window that the model read.
    pub(crate) index: usize,
    /// Where it starts and ends in the text, in code points.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether it continues the word of the token before.
    pub(crate) is_subword: bool,
}

/// A token or word with its label.
struct Labelled<'a> {
    label: &'a str,
    score: f32,
    word: Cow<'a, str>,
    start: usize,
    end: usize,
}

/// The entities of a text.
pub(crate) fn entities(
    tokens: &[ScoredToken<'_>],
    labels: &[String],
    aggregation: Aggregation,
    tokenizer: &Tokenizer,
) -> Vec<Entity> {
    match aggregation {
        Aggregation::None => single_tokens(tokens, labels),
        Aggregation::Simple => {
            let labelled = tokens.iter().map(|token| labelled_token(token, labels));
            groups(labelled.collect(), tokenizer)
        }
        _ => {
            let words = tokens.chunk_by(|_, next| next.is_subword);
            let labelled = words.map(|word| labelled_word(word, labels, aggregation, tokenizer));
            groups(labelled.collect(), tokenizer)
        }
    }
}

fn single_tokens(tokens: &[ScoredToken<'_>], labels: &[String]) -> Vec<Entity> {
    tokens
        .iter()
        .map(|token| (token.index, labelled_token(token, labels)))
        .filter(|(_, token)| token.label != OUTSIDE)
        .map(|(index, token)| Entity {
            entity_group: None,
            entity: Some(token.label.into()),
            score: token.score,
            word: token.word.into_owned(),
            index: Some(index),
            start: token.start,
            end: token.end,
        })
        .collect()
}

fn labelled_token<'a>(token: &ScoredToken<'a>, labels: &'a [String]) -> Labelled<'a> {
    let (best, score) = best(&token.probabilities);
    Labelled {
        label: &labels[best],
        score,
        word: token.word.into(),
        start: token.start,
        end: token.end,
    }
}

/// Labels a word of one or more tokens.
fn labelled_word<'a>(
    word: &[ScoredToken<'_>],
    labels: &'a [String],
    aggregation: Aggregation,
    tokenizer: &Tokenizer,
) -> Labelled<'a> {
    let (label, score) = match aggregation {
        Aggregation::Average => best(&average(word)),
        Aggregation::Max => {
            // Of equal ones the first, as Python's max.
            let mut most = best(&word[0].probabilities);
            for token in &word[1..] {
                let own = best(&token.probabilities);
                if own.1 > most.1 {
                    most = own;
                }
            }
            most
        }
        _ => best(&word[0].probabilities),
    };
    Labelled {
        label: &labels[label],
        score,
        word: text(word.iter().map(|token| token.word), tokenizer).into(),
        start: word[0].start,
        end: word[word.len() - 1].end,
    }
}

fn text<'a>(words: impl Iterator<Item = &'a str>, tokenizer: &Tokenizer) -> String {
    tokenizer.text(&words.collect::<Vec<_>>())
}

fn average(word: &[ScoredToken<'_>]) -> Vec<f32> {
    let mut sums = word[0].probabilities.clone();
    for token in &word[1..] {
        for (sum, p) in sums.iter_mut().zip(&token.probabilities) {
            *sum += p;
        }
    }
    let count = word.len() as f32;
    sums.into_iter().map(|sum| sum / count).collect()
}

/// The likeliest label and its probability; of equal ones the first.
fn best(probabilities: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (label, &p) in probabilities.iter().enumerate() {
        if p > best.1 {
            best = (label, p);
        }
    }
    best
}

/// Joins neighbours of one type, except where a label says that a new entity begins; leaves out what is outside.
fn groups(labelled: Vec<Labelled<'_>>, tokenizer: &Tokenizer) -> Vec<Entity> {
    labelled
        .chunk_by(|last, next| {
            let (begins, kind) = tag(next.label);
            !begins && kind == tag(last.label).1
        })
        .filter(|group| tag(group[0].label).1 != OUTSIDE)
        .map(|group| {
            let sum: f64 = group.iter().map(|member| f64::from(member.score)).sum();
            Entity {
                entity_group: Some(group_name(group[0].label).into()),
                entity: None,
                score: (sum / group.len() as f64) as f32,
                word: text(group.iter().map(|member| &*member.word), tokenizer),
                index: None,
                start: group[0].start,
                end: group[group.len() - 1].end,
            }
        })
        .collect()
}

/// Whether a label begins an entity, and of what type it is: `B-PER` begins a `PER`, `PER` and `I-PER` go on with one.
fn tag(label: &str) -> (bool, &str) {
    match (label.strip_prefix("B-"), label.strip_prefix("I-")) {
        (Some(kind), _) => (true, kind),
        (None, Some(kind)) => (false, kind),
        (None, None) => (false, label),
    }
}

/// What a group is called: its first label without whatever stands before the first hyphen.
fn group_name(label: &str) -> &str {
    label.split_once('-').map_or(label, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use galley_text::WordPieceSettings;

    const LABELS: [&str; 5] = ["O", "B-A", "I-A", "B-B", "I-B"];

    fn tokenizer() -> Tokenizer {
        let vocab = b"[UNK]\n[CLS]\n[SEP]\nnew\nyo\n##rk\n.\n";
        Tokenizer::from_vocab(vocab, &WordPieceSettings::default()).unwrap()
    }

    /// A token with the probabilities of O, B-A, I-A, B-B, I-B.
    fn token(word: &str, start: usize, probabilities: [f32; 5]) -> ScoredToken<'_> {
        let is_subword = word.starts_with("##");
        let letters = word.trim_start_matches("##").len();
        ScoredToken {
            word,
            probabilities: probabilities.to_vec(),
            index: start + 1,
            start,
            end: start + letters,
            is_subword,
        }
    }

    /// `new yo##rk .` on which the strategies disagree.
    fn new_york() -> Vec<ScoredToken<'static>> {
        vec![
            token("new", 0, [0.1, 0.8, 0.1, 0.0, 0.0]),
            token("yo", 4, [0.2, 0.0, 0.5, 0.0, 0.3]),
            token("##rk", 6, [0.0, 0.0, 0.35, 0.05, 0.6]),
            token(".", 8, [0.9, 0.1, 0.0, 0.0, 0.0]),
        ]
    }

    fn run(
        tokens: &[ScoredToken<'_>],
        aggregation: &str,
    ) -> Vec<(String, String, f32, usize, usize)> {
        let labels = LABELS.map(String::from);
        entities(tokens, &labels, aggregation.parse().unwrap(), &tokenizer())
            .into_iter()
            .map(|e| {
                let name = e.entity_group.or(e.entity).unwrap();
                (name, e.word, (e.score * 1e4).round() / 1e4, e.start, e.end)
            })
            .collect()
    }

    fn entity(
        name: &str,
        word: &str,
        score: f32,
        start: usize,
        end: usize,
    ) -> (String, String, f32, usize, usize) {
        (name.into(), word.into(), score, start, end)
    }

    #[test]
    fn none_gives_tokens_with_their_full_labels() {
        let got = run(&new_york(), "none");
        assert_eq!(
            got,
            [
                entity("B-A", "new", 0.8, 0, 3),
                entity("I-A", "yo", 0.5, 4, 6),
                entity("I-B", "##rk", 0.6, 6, 8),
            ]
        );
    }

    #[test]
    fn simple_breaks_a_word_whose_pieces_disagree() {
        assert_eq!(
            run(&new_york(), "simple"),
            [
                entity("A", "new yo", 0.65, 0, 6),
                entity("B", "##rk", 0.6, 6, 8)
            ]
        );
    }

    #[test]
    fn first_average_and_max_keep_words_whole() {
        let whole = |score| [entity("A", "new york", score, 0, 8)];
        assert_eq!(run(&new_york(), "first"), whole(0.65));
        // The mean of york's two tokens is 0.425 for I-A, 0.45 for I-B.
        let split = |score| {
            [
                entity("A", "new", 0.8, 0, 3),
                entity("B", "york", score, 4, 8),
            ]
        };
        assert_eq!(run(&new_york(), "average"), split(0.45));
        assert_eq!(run(&new_york(), "max"), split(0.6));
    }

    #[test]
    fn a_b_label_begins_a_new_entity_of_the_same_type() {
        let mut tokens = new_york();
        tokens.truncate(2);
        tokens[1].probabilities = vec![0.0, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(run(&tokens, "simple").len(), 2);
        assert_eq!(run(&tokens, "first").len(), 2);
    }

    #[test]
    fn labels_without_a_prefix_join() {
        assert_eq!(tag("PER"), (false, "PER"));
        assert_eq!(tag("B-X-Y"), (true, "X-Y"));
        assert_eq!((group_name("PER"), group_name("S-X-Y")), ("PER", "X-Y"));
    }

    #[test]
    fn no_tokens_no_entities() {
        for name in ["none", "simple", "first", "average", "max"] {
            assert!(run(&[], name).is_empty());
        }
        assert!("most".parse::<Aggregation>().is_err());
    }
}
