//! Texts of a given length, made of those of a corpus, so that reading them is part of what is measured.

use galley_core::{AnyRecipe, Input};
use rayon::prelude::*;

use crate::{
    corpus::Corpus,
    error::{Error, Result},
};

/// A word that every vocabulary has, for what is left when no longer one fits.
const FILLER: &str = "a";

/// As many texts as the corpus has, each of which costs `length` in the recipe's unit, or as much less as no word fits in.
///
/// # Errors
/// The recipe's inputs have no such length, or it is too short for a word.
pub(super) fn texts(recipe: &AnyRecipe, corpus: &Corpus, length: usize) -> Result<Vec<String>> {
    let cost = |text: &str| {
        let prepared = recipe.prepare(Input::text(text));
        prepared
            .map(|item| item.cost() as usize)
            .map_err(|error| refused(error.to_string()))
    };
    let unit = recipe.info().cost_unit;
    let long = [FILLER; 50].join(" ");
    if cost(FILLER)? == cost(&long)? {
        return Err(refused(format!(
            "{} counts {unit}, which texts of any length are",
            recipe.info().name
        )));
    }
    if cost(FILLER)? > length {
        return Err(refused(format!(
            "expected at least {} {unit}, got {length}",
            cost(FILLER)?
        )));
    }
    let all: Vec<String> = (0..corpus.len())
        .map(|index| Ok(String::from_utf8_lossy(&corpus.bytes(index)?).into_owned()))
        .collect::<Result<_>>()?;
    (0..all.len())
        .into_par_iter()
        .map(|index| {
            let following = all.iter().cycle().skip(index);
            // A word costs at least one, so that this many are enough.
            let words: Vec<&str> = following
                .flat_map(|text| text.split_whitespace())
                .take(length)
                .collect();
            fitted(&words, length, &cost)
        })
        .collect()
}

/// The most words from the first on that cost at most `length`, and fillers up to it.
fn fitted(words: &[&str], length: usize, cost: &dyn Fn(&str) -> Result<usize>) -> Result<String> {
    let (mut fits, mut too_many) = (0, words.len() + 1);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        if cost(&words[..middle].join(" "))? <= length {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    let mut text = words[..fits].join(" ");
    loop {
        let longer = if text.is_empty() {
            FILLER.into()
        } else {
            format!("{text} {FILLER}")
        };
        if cost(&longer)? > length {
            return Ok(text);
        }
        text = longer;
    }
}

fn refused(reason: String) -> Error {
    Error::option("--length", reason)
}

#[cfg(test)]
mod tests {
    use galley_core::LoadOptions;
    use proptest::prelude::*;

    use super::*;
    use crate::corpus::{CorpusKind, SEED};

    fn load(recipe: &str) -> AnyRecipe {
        galley_catalog::load(recipe, &LoadOptions::default()).unwrap()
    }

    #[test]
    fn texts_are_exactly_as_long_as_asked_for() {
        let recipe = load("transformers_ner");
        let corpus = Corpus::open(CorpusKind::Ner, 20, SEED, &|_, _| ()).unwrap();
        for length in [8, 64, 128] {
            let texts = texts(&recipe, &corpus, length).unwrap();
            assert_eq!(texts.len(), 20);
            for text in &texts {
                let cost = recipe.prepare(Input::text(text.as_str())).unwrap().cost();
                assert_eq!(cost as usize, length, "{text}");
            }
            let distinct: std::collections::HashSet<_> = texts.iter().collect();
            assert_eq!(distinct.len(), 20);
        }
    }

    #[test]
    fn what_has_no_length_is_refused() {
        let corpus = Corpus::open(CorpusKind::Ner, 2, SEED, &|_, _| ()).unwrap();
        let error = texts(&load("echo"), &corpus, 8).unwrap_err().to_string();
        assert!(
            error.contains("--length") && error.contains("echo"),
            "{error}"
        );
        assert!(texts(&load("transformers_ner"), &corpus, 1).is_err());
        let images = texts(&load("efficientnet_lite0"), &corpus, 8).unwrap_err();
        assert!(images.to_string().contains("--length"), "{images}");
    }

    proptest! {
        /// A cost of two for the whole and a word's letters for each word.
        #[test]
        fn no_longer_text_would_fit(lengths in prop::collection::vec(1..9usize, 1..40), length in 3..60usize) {
            let words: Vec<String> = lengths.iter().map(|&letters| "b".repeat(letters)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let cost = |text: &str| Ok(2 + text.chars().filter(|c| !c.is_whitespace()).count());
            let text = fitted(&words, length, &cost).unwrap();
            prop_assert_eq!(cost(&text).unwrap(), length);
            let kept = text.split(' ').take_while(|word| *word != FILLER).count();
            prop_assert!(text.split(' ').zip(&words).take(kept).all(|(a, b)| a == *b));
            prop_assert!(kept == words.len() || cost(&words[..=kept].join(" ")).unwrap() > length);
        }
    }
}
