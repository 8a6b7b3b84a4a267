//! Texts as people send them: long, empty, in any script, with options, and wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{ask, bundled, load};
use galley_core::{Input, InputError, LoadOptions, WeightSource};
use galley_encoders::ENTRIES;
use serde_json::{Value, json};

/// What the text has at the entity's place.
fn slice(text: &str, start: usize, end: usize) -> String {
    text.chars().skip(start).take(end - start).collect()
}

#[test]
fn an_entity_at_the_end_of_a_long_text_is_found_at_its_place() {
    let filler = "The weather was nice, the café was open — and nobody had to wait. ".repeat(120);
    let text = format!("{filler}My name is Sarah Johnson and I live at 42 Maple Street, Portland.");
    let recipe = bundled();
    let prepared = recipe.prepare(Input::text(text.clone())).unwrap();
    assert!(prepared.cost() > 2000, "{}", prepared.cost());
    let entities = ask(&recipe, vec![json!(text)]).remove(0);
    for (group, word) in [
        ("GIVEN_NAME", "Sarah"),
        ("SURNAME", "Johnson"),
        ("CITY", "Portland"),
    ] {
        let found = entities
            .iter()
            .find(|entity| entity.entity_group.as_deref() == Some(group))
            .unwrap_or_else(|| panic!("no {group} in {entities:?}"));
        assert_eq!(slice(&text, found.start, found.end), word);
    }
}

#[test]
fn a_sentence_is_read_alike_wherever_it_stands_in_a_long_text() {
    let sentence = "My name is Sarah Johnson and I live in Portland. ";
    let count = 130;
    let entities = ask(&bundled(), vec![json!(sentence.repeat(count))]).remove(0);
    let names = entities
        .iter()
        .filter(|entity| entity.word == "sarah" || entity.word == "johnson");
    let starts: Vec<_> = names.map(|entity| entity.start).collect();
    let expected: Vec<_> = (0..count)
        .flat_map(|i| [i * sentence.len() + 11, i * sentence.len() + 17])
        .collect();
    assert_eq!(starts, expected);
}

#[test]
fn places_count_code_points_in_any_script() {
    let recipe = bundled();
    for before in [
        "",
        "👩‍👩‍👧‍👦 👍🏽 ",
        "漢字かな交じり文。",
        "e\u{301}a\u{308}\u{323} ",
        "שלום ",
        "𝔘𝔫𝔦 ",
    ] {
        let text = format!("{before}My name is Sarah Johnson.");
        let entities = ask(&recipe, vec![json!(text)]).remove(0);
        let words: Vec<_> = entities
            .iter()
            .map(|entity| slice(&text, entity.start, entity.end))
            .collect();
        assert!(words.contains(&"Sarah".into()), "{text}: {words:?}");
        assert!(words.contains(&"Johnson".into()), "{text}: {words:?}");
    }
}

#[test]
fn texts_without_words_have_no_entities() {
    let texts = ["", " \t\n ", "\u{0}", "\u{200b}"].map(Value::from);
    for entities in ask(&bundled(), texts.to_vec()) {
        assert!(entities.is_empty());
    }
}

#[test]
fn wrong_inputs_are_refused_with_a_reason() {
    let options = LoadOptions {
        limits: galley_core::InputLimits {
            max_text_bytes: 100,
            ..Default::default()
        },
        ..LoadOptions::default()
    };
    let recipe = (ENTRIES[0].load)(&ENTRIES[0], &options).unwrap();
    let error = |input| recipe.prepare(input).err().unwrap();
    for (value, reason) in [
        (json!([1]), "got a list"),
        (
            json!({"text": "a", "agregation": "simple"}),
            "\"agregation\"",
        ),
        (
            json!({"text": "a", "aggregation": "mean"}),
            "field aggregation: expected none, simple, first, average or max, got \"mean\"",
        ),
        (
            json!({"text": "a", "aggregation": 1}),
            "field aggregation: expected a text, got 1",
        ),
    ] {
        let message = error(Input::Json(value)).to_string();
        assert!(message.contains(reason), "{message}");
    }
    assert!(matches!(
        error(Input::text("x".repeat(101))),
        InputError::TooLarge {
            option: "--max-text",
            ..
        }
    ));
    assert!(matches!(
        error(Input::File(b"text".as_slice().into())),
        InputError::WrongKind { .. }
    ));
}

#[test]
fn the_aggregation_can_be_set_for_the_whole_server() {
    let text = json!("My zip code is 97205.");
    let words = |aggregation| {
        let recipe = load(WeightSource::Bundled, &[("aggregation", aggregation)]).unwrap();
        let entities = ask(&recipe, vec![text.clone()]).remove(0);
        entities
            .into_iter()
            .map(|entity| entity.word)
            .collect::<Vec<_>>()
    };
    assert!(words("simple").len() > 1);
    for whole in ["first", "average", "max"] {
        assert_eq!(words(whole), ["97205"]);
    }
    let error = load(WeightSource::Bundled, &[("aggregation", "mean")])
        .err()
        .unwrap();
    let message = error.to_string();
    assert!(
        message.contains("option transformers_ner.aggregation: expected none"),
        "{message}"
    );
}

#[test]
fn samples_have_the_size_asked_for_and_run() {
    let recipe = bundled();
    let samples: Vec<_> = [1, 8, 64, 700]
        .iter()
        .map(|&size| recipe.sample(Some(size), size as u64))
        .collect();
    let costs: Vec<_> = samples.iter().map(|sample| sample.cost()).collect();
    assert_eq!(costs[..3], [2, 8, 64]);
    assert!(costs[3] > 700);
    let raw = recipe.forward(&samples.iter().collect::<Vec<_>>()).unwrap();
    for (sample, raw) in samples.into_iter().zip(raw) {
        recipe.finish(sample, raw).unwrap();
    }
}

#[test]
fn a_text_of_too_many_tokens_is_refused_by_the_option_that_says_so() {
    let recipe = load(WeightSource::Bundled, &[("max_tokens", "20")]).unwrap();
    assert!(recipe.prepare(Input::text("word ".repeat(20))).is_ok());
    let refused = recipe.prepare(Input::text("word ".repeat(21))).err();
    assert_eq!(
        refused,
        Some(InputError::TooLarge {
            what: "text of 21 tokens".into(),
            limit: "20 tokens".into(),
            option: "--option transformers_ner.max_tokens",
        })
    );
    let error = load(WeightSource::Bundled, &[("max_tokens", "all")]);
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("transformers_ner.max_tokens") && error.contains("\"all\""),
        "{error}"
    );
}
