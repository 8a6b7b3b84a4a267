//! The shipped tokenizers, and the same ones built from a bare vocabulary, against transformers: ids and offsets of 36
//! texts in many scripts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, io::Read, path::PathBuf};

use flate2::read::MultiGzDecoder;
use galley_text::{Tokenizer, WordPieceSettings};
use serde_json::Value;
use tokenizers::Decoder;

/// Text, ids with special tokens, offsets in code points.
type Golden = (String, Vec<u32>, Vec<(usize, usize)>);

struct Case {
    json: Vec<u8>,
    goldens: Vec<Golden>,
    settings: WordPieceSettings,
}

fn case(name: &str) -> Case {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let packed = root.join(format!("../encoders/weights/{name}/tokenizer.json.gz"));
    let mut json = Vec::new();
    let packed = fs::File::open(packed).unwrap();
    MultiGzDecoder::new(packed).read_to_end(&mut json).unwrap();
    let goldens = fs::read(root.join(format!("tests/data/{name}.json"))).unwrap();
    Case {
        json,
        goldens: serde_json::from_slice(&goldens).unwrap(),
        settings: WordPieceSettings {
            do_lower_case: name.ends_with("uncased"),
            ..WordPieceSettings::default()
        },
    }
}

fn cases() -> [Case; 2] {
    ["bert_base_cased", "bert_base_uncased"].map(case)
}

fn check(tokenizer: &Tokenizer, goldens: &[Golden]) {
    for (text, ids, offsets) in goldens {
        let tokens = tokenizer.tokens(text).unwrap();
        assert_eq!(
            &tokenizer.framed(&tokens.ids).collect::<Vec<_>>(),
            ids,
            "{text:?}"
        );
        let before = |byte: usize| text[..byte].chars().count();
        let got: Vec<_> = (tokens.offsets.iter())
            .map(|&(start, end)| (before(start), before(end)))
            .collect();
        // Special tokens have no place in the text.
        assert_eq!(got, offsets[1..offsets.len() - 1], "{text:?}");
    }
}

#[test]
fn tokenizer_files_give_the_tokens_of_transformers() {
    for case in cases() {
        check(&Tokenizer::from_bytes(&case.json).unwrap(), &case.goldens);
    }
}

#[test]
fn a_vocabulary_gives_the_same_tokens_as_the_tokenizer_file() {
    for case in cases() {
        let json: Value = serde_json::from_slice(&case.json).unwrap();
        let mut vocab: Vec<(u64, &String)> = (json["model"]["vocab"].as_object().unwrap().iter())
            .map(|(token, id)| (id.as_u64().unwrap(), token))
            .collect();
        vocab.sort_unstable();
        let lines: Vec<&str> = vocab.iter().map(|(_, token)| token.as_str()).collect();
        let tokenizer = Tokenizer::from_vocab(lines.join("\n").as_bytes(), &case.settings).unwrap();
        check(&tokenizer, &case.goldens);
        let pieces = ["d", "'", "angelo", "##s", ",", "x"];
        let whole = Tokenizer::from_bytes(&case.json).unwrap();
        assert_eq!(tokenizer.text(&pieces), whole.text(&pieces));
        assert_eq!(tokenizer.unknown(), whole.unknown());
        assert!(tokenizer.marks_continuations() && whole.marks_continuations());
    }
}

#[test]
fn tokens_and_their_text_are_the_librarys_own() {
    for case in cases() {
        let tokenizer = Tokenizer::from_bytes(&case.json).unwrap();
        let library = tokenizers::Tokenizer::from_bytes(&case.json).unwrap();
        let decoder = library.get_decoder().unwrap();
        let count = library.get_vocab_size(true) as u32;
        for id in 0..count + 2 {
            let token = library.id_to_token(id).unwrap_or_default();
            assert_eq!(tokenizer.token(id), token, "{id}");
        }
        let marks = [
            "'", "##'", "s", "##s", "do", "not", "n't", ".", "##.", "a b", "##",
        ];
        let mut seed = 1u64;
        let mut any = || {
            seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            (seed >> 33) as usize
        };
        for _ in 0..3000 {
            let tokens: Vec<&str> = (0..any() % 5)
                .map(|_| match any() % 4 {
                    0 => marks[any() % marks.len()],
                    _ => tokenizer.token((any() % count as usize) as u32),
                })
                .collect();
            let owned = tokens.iter().map(|&token| token.to_owned()).collect();
            let expected = decoder.decode_chain(owned).unwrap().concat();
            assert_eq!(tokenizer.text(&tokens), expected, "{tokens:?}");
        }
    }
}

#[test]
fn an_id_of_any_size_takes_no_more_room_than_another() {
    let mut json: Value = serde_json::from_slice(&cases()[0].json).unwrap();
    json["model"]["vocab"]["faraway"] = u32::MAX.into();
    let tokenizer = Tokenizer::from_bytes(&serde_json::to_vec(&json).unwrap()).unwrap();
    assert_eq!(tokenizer.token(u32::MAX), "faraway");
    assert_eq!(tokenizer.token(u32::MAX - 1), "");
}

#[test]
fn truncation_and_padding_of_the_file_are_switched_off() {
    let case = &cases()[0];
    let mut json: Value = serde_json::from_slice(&case.json).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"
    });
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    check(&tokenizer, &case.goldens);
}

#[test]
fn folders_without_a_tokenizer_and_broken_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("expected a tokenizer.json or a vocab.txt"),
        "{error}"
    );
    fs::write(dir.path().join("vocab.txt"), "[CLS]\n[SEP]\na\n").unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("[UNK] is missing"), "{error}");
    assert!(Tokenizer::from_bytes(b"{}").is_err());
}
