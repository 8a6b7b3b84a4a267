//! `predict`, `recipes` and `pull` print what they are asked for, and nothing else.

use candle_core::Device;
use galley_core::synthetic;
use safetensors::{Dtype, serialize, tensor::TensorView};
use serde_json::{Value, json};

use crate::program::{galley, repository, run};

#[test]
fn texts_on_stdin_are_answered_line_by_line() {
    let ended = run(
        galley(&["predict", "deepsegment_en", "-"]),
        "i don't know what he's doing it's not my problem we'll see him tomorrow\n\nhello\n",
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = ended.json_lines();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0],
        json!([
            "i don't know what he's doing",
            "it's not my problem",
            "we'll see him tomorrow"
        ])
    );
    assert_eq!(lines[1..], [json!([]), json!(["hello"])]);
}

#[test]
fn a_file_that_is_no_image_fails_alone_and_the_command_with_it() {
    let coffee = repository("recipes/efficientnet/examples/coffee.jpg");
    let bad = repository("recipes/efficientnet/examples/README.md");
    let files = [&coffee, &bad, &coffee].map(|path| path.to_str().unwrap());
    let args = [&["predict", "efficientnet_lite0"], &files[..]].concat();
    let ended = run(galley(&args), "");
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("1 inputs could not be answered"));
    let lines = ended.json_lines();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0][0]["class"], "espresso");
    assert_eq!(lines[0], lines[2]);
    assert!(lines[1]["error"].is_string(), "{}", lines[1]);

    let ended = run(galley(&args[..3]), "");
    assert_eq!(
        (ended.code, ended.json_lines()),
        (Some(0), lines[..1].to_vec())
    );
}

#[test]
fn an_image_that_takes_more_than_all_memory_for_decoding_is_refused() {
    let coffee = repository("recipes/efficientnet/examples/coffee.jpg");
    let args = ["predict", "efficientnet_lite0", coffee.to_str().unwrap()];
    let with = |size: &str| {
        run(
            galley(&[&args[..], &["--max-decode-memory", size]].concat()),
            "",
        )
    };
    let refused = with("100KiB");
    assert_eq!(refused.code, Some(1));
    let error = refused.json_lines()[0]["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        error.ends_with("exceeds the limit of 102400 bytes (--max-decode-memory)"),
        "{error}"
    );
    assert_eq!(with("8MiB").json_lines()[0][0]["class"], "espresso");
}

/// The network's own input in, its logits out, against PyTorch.
#[test]
fn raw_tensors_give_raw_outputs() {
    const DATA: &str = "recipes/efficientnet/tests/data";
    let golden = std::fs::read(repository(&format!("{DATA}/efficientnet_b0.json"))).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let seed = golden["seed"].as_u64().unwrap();
    let inputs = &golden["inputs"].as_array().unwrap()[..2];
    let number = |input: &Value, key: &str| input[key].as_u64().unwrap() as usize;
    let side = number(&inputs[0], "size");
    let pixels: Vec<u8> = inputs
        .iter()
        .flat_map(|input| {
            let name = input["name"].as_str().unwrap();
            synthetic::image(name, side, seed, number(input, "block"))
        })
        .flat_map(f32::to_le_bytes)
        .collect();
    let view = TensorView::new(Dtype::F32, vec![inputs.len(), 3, side, side], &pixels).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pixels.safetensors");
    std::fs::write(&file, serialize([("pixels", view)], None).unwrap()).unwrap();

    let weights = format!("synthetic:{seed}");
    let raw = file.to_str().unwrap();
    let args = [
        "predict",
        "efficientnet_b0",
        "--weights",
        &weights,
        "--raw",
        raw,
    ];
    let ended = run(galley(&args), "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines = ended.json_lines();
    assert_eq!(lines.len(), inputs.len());
    let expected = repository(&format!("{DATA}/efficientnet_b0.safetensors"));
    let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
    for (i, (line, input)) in lines.iter().zip(inputs).enumerate() {
        let got: Vec<f32> = serde_json::from_value(line["logits"].clone()).unwrap();
        let expected: Vec<f32> = expected[&format!("logits.{i}")].to_vec1().unwrap();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-3, "{i}: {got} {expected}");
        }
        let best = (0..got.len()).max_by(|&a, &b| got[a].total_cmp(&got[b]));
        assert_eq!(json!(best), input["top5"][0]);
    }
}

#[test]
fn every_recipe_is_listed() {
    let table = run(galley(&["recipes"]), "");
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    let json = run(galley(&["recipes", "--json"]), "");
    let json: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
    let listed: Vec<&str> = json
        .iter()
        .map(|recipe| recipe["name"].as_str().unwrap())
        .collect();
    let names: Vec<&str> = galley_catalog::entries().map(|entry| entry.name).collect();
    assert_eq!(listed, names);
    for name in names {
        let of_it = |line: &&str| line.split_whitespace().next() == Some(name);
        assert_eq!(table.stdout.lines().filter(of_it).count(), 1, "{name}");
    }
}
