//! `predict --raw` of every recipe: what goes in, what comes out, and what is refused with which words.

use safetensors::Dtype;

use crate::{
    program::{Ended, galley, run},
    raw_tensors::{self, Named, file, numbers, pixels, whole},
};

/// Runs a recipe on a file's bytes.
fn raw(recipe: &str, weights: &str, bytes: &[u8]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tensors.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let args = ["predict", recipe, "--weights", weights, "--raw", path];
    run(galley(&[&args[..], &["--device", "cpu"]].concat()), "")
}

#[test]
fn every_recipe_with_a_network_takes_its_tensors() {
    for entry in galley_catalog::entries() {
        let Some(tensors) = raw_tensors::of(entry) else {
            continue;
        };
        let weights = raw_tensors::weights(entry);
        let ended = raw(entry.name, weights, &file(&tensors));
        assert_eq!(ended.code, Some(0), "{}: {}", entry.name, ended.stderr);
        let items = numbers(&ended.json_lines());
        assert_eq!(items.len(), 2, "{}", entry.name);
        assert!(items.iter().flatten().all(|number| number.is_finite()));
        assert_ne!(items[0], items[1], "{}", entry.name);
        let expected = match entry.name {
            // Three labels a word, and 35 a token.
            "deepsegment_en" => [9, 6],
            "transformers_ner" => [140, 105],
            "distilbert_sst2" => [2, 2],
            "text_embeddings" => [384, 384],
            "bert-base" | "lstm" => [100, 100],
            // A hundred a token.
            "gpt2-small" => [400, 300],
            _ => [1000, 1000],
        };
        let lengths = [items[0].len(), items[1].len()];
        assert_eq!(lengths, expected, "{}", entry.name);
        for tensors in raw_tensors::of_nothing(entry) {
            let (_, _, shape, _) = &tensors[0];
            let ended = raw(entry.name, weights, &file(&tensors));
            assert_eq!(ended.code, Some(0), "{}: {}", entry.name, ended.stderr);
            let nothing = vec![Vec::<f64>::new(); shape[0]];
            assert_eq!(numbers(&ended.json_lines()), nothing, "{}", entry.name);
        }
    }
}

/// One line says what was expected and what came, although the program is asked for backtraces.
#[test]
fn tensors_that_do_not_fit_are_refused_in_one_line() {
    let ids = |values: &[i64; 4]| whole("input_ids", &[2, 2], values);
    let mask = |values: &[i64; 4]| whole("attention_mask", &[2, 2], values);
    let of = |dtype, bytes| ("pixels", dtype, vec![1, 3, 2, 2], vec![0; bytes]);
    let cases: &[(&str, &[Named<'_>], &[&str])] = &[
        ("echo", &[pixels(8)], &["echo", "no tensors"]),
        (
            "efficientnet_lite0",
            &[],
            &["pixels [n, 3, height, width]", "got none"],
        ),
        (
            "efficientnet_lite0",
            &[of(Dtype::F64, 96)],
            &["got pixels [1, 3, 2, 2] in f64"],
        ),
        (
            "efficientnet_lite0",
            &[of(Dtype::F16, 24)],
            &["got pixels [1, 3, 2, 2] in f16"],
        ),
        ("efficientnet_lite0", &[of(Dtype::BOOL, 12)], &["BOOL"]),
        (
            "efficientnet_lite0",
            &[ids(&[1, 2, 3, 4])],
            &["got input_ids"],
        ),
        (
            "deepsegment_en",
            &[pixels(8)],
            &["words [n, t]", "got pixels"],
        ),
        (
            "transformers_ner",
            &[pixels(8)],
            &["input_ids [n, l]", "unknown tensor pixels"],
        ),
        (
            "transformers_ner",
            &[ids(&[1, 2, 3, 4]), mask(&[0, 1, 1, 1])],
            &["input_ids [n, l]", "of ones and then zeros"],
        ),
        (
            "transformers_ner",
            &[ids(&[1, 2, 3, 1 << 40])],
            &["got 1099511627776 in input_ids"],
        ),
    ];
    for (recipe, tensors, named) in cases {
        refuses(&raw(recipe, "bundled", &file(tensors)), named);
    }
    refuses(
        &raw("efficientnet_lite0", "bundled", b"no tensors"),
        &["as safetensors"],
    );
}

#[track_caller]
fn refuses(ended: &Ended, named: &[&str]) {
    assert_eq!(
        (ended.code, &*ended.stdout),
        (Some(1), ""),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for word in named {
        let times = ended.stderr.matches(word).count();
        assert_eq!(times, 1, "{word:?} in: {}", ended.stderr);
    }
}
