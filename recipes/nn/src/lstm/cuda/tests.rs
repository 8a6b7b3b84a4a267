//! Programs as they would be launched, against the CPU's operators: with what the kernels do emulated, and where there
//! is a device, on it.

#[cfg(feature = "cuda")]
mod device;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use galley_core::synthetic;

use super::{
    emulator::Memory,
    network::{Network, Shape, Wanted},
    operator::{self, Operator},
};
use crate::{
    cuda::{Element, Place, Span, Target, Weights, check::Check},
    host::to_vec,
    lstm::{BiLstm, Dense, TaggerConfig, Words},
};

const ELEMENTS: [Element; 2] = [Element::F32, Element::F16];

/// By how much results may differ from those in f32 on the CPU; states are between -1 and 1.
pub(super) fn tolerance(element: Element) -> f32 {
    match element {
        Element::F32 => 1e-5,
        Element::F16 => 4e-3,
    }
}

pub(super) fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let close = (got - want).abs() <= tolerance * want.abs().max(1.0);
        assert!(close, "{what}[{i}]: {got} is not {want}");
    }
}

/// Runs a program in memory that holds nothing: whatever is read without having been written is not a number. Gives the
/// memory after it.
pub(super) fn emulate(
    check: &Check<'_>,
    weights: &Weights,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    check.run();
    let mut memory = Memory {
        weights: weights.bytes(),
        pass: vec![0xff; check.layout.bytes()],
    };
    fill(of(&mut memory.pass, check.input));
    memory.run(check.program);
    memory.pass
}

pub(super) fn of(pass: &mut [u8], span: Span) -> &mut [u8] {
    let Place::Pass(at) = span.place else {
        panic!("expected a place in the pass, got {span:?}")
    };
    &mut pass[at..at + span.bytes]
}

/// Input rows, and how many each sequence has.
pub(super) fn batch(seed: u64, input: usize, lengths: &[usize]) -> Tensor {
    let rows: usize = lengths.iter().sum();
    let values: Vec<f32> = synthetic::uniform("x", seed).take(rows * input).collect();
    Tensor::from_vec(values, (rows, input), &Device::Cpu).unwrap()
}

/// `count` lengths from 1 to 60, some of which are 0 all the same.
pub(super) fn lengths(seed: u64, count: usize) -> Vec<usize> {
    let length = |u: f32| {
        if u < -0.9 {
            0
        } else {
            1 + ((u + 1.0) * 29.9) as usize
        }
    };
    synthetic::uniform("lengths", seed)
        .take(count)
        .map(length)
        .collect()
}

#[test]
fn a_layer_as_it_is_launched_is_the_layer_of_the_cpu() {
    let shapes: [(usize, usize, Vec<usize>); 7] = [
        (3, 5, vec![4]),
        (1, 1, vec![1, 0, 1]),
        (25, 25, lengths(1, 9)),
        (150, 100, vec![7, 12, 0, 3]),
        (40, 60, vec![1; 70]),
        (17, 128, vec![3, 2]),
        (8, 130, vec![2, 3]),
    ];
    for (case, (input, hidden, lengths)) in shapes.into_iter().enumerate() {
        let vb = synthetic::var_builder(case as u64);
        let x = batch(case as u64, input, &lengths);
        let want = BiLstm::load(&vb, input, hidden)
            .unwrap()
            .forward(&x, &lengths)
            .unwrap();
        for element in ELEMENTS {
            let mut weights = Weights::new(element);
            let operator = Operator::load(&mut weights, &vb, input, hidden).unwrap();
            let shape = operator::Shape {
                rows: x.dims()[0],
                sequences: lengths.len(),
            };
            let places = operator.places(shape);
            for target in [Target::hopper(element), Target::ampere(element)] {
                let program = operator.program(target, shape, &places).unwrap();
                let values = to_vec(&x).unwrap();
                for (span, element, want) in [
                    (places.output, element, &want.output),
                    (places.hidden, element, &want.hidden),
                    (places.cell, Element::F32, &want.cell),
                ] {
                    let check = Check {
                        program: &program,
                        weights: weights.bytes().len(),
                        layout: places.layout,
                        input: places.input,
                        output: span,
                    };
                    let mut memory = emulate(&check, &weights, |input| {
                        operator.fill(&places, &values, &lengths, input);
                    });
                    let results = of(&mut memory, places.results);
                    let got = &results[places.results.distance(span)..][..span.bytes];
                    let what = format!("case {case} in {}", weights.element().name());
                    let want = to_vec(want).unwrap();
                    let tolerance = tolerance(weights.element());
                    assert_close(&what, &element.read(got), &want, tolerance);
                }
            }
        }
    }
}

/// Sizes that fit no tile.
const ODD: TaggerConfig = TaggerConfig {
    words: 50,
    word_size: 13,
    chars: 20,
    char_size: 7,
    char_hidden: 9,
    word_hidden: 21,
    dense: 14,
    tags: 3,
};

/// Those of the sentence segmenter.
const SEGMENTER: TaggerConfig = TaggerConfig {
    words: 300,
    word_size: 100,
    chars: 97,
    char_size: 25,
    char_hidden: 25,
    word_hidden: 100,
    dense: 100,
    tags: 3,
};

/// Random words, some without a character, in sequences of the lengths.
fn words(config: &TaggerConfig, seed: u64, count: usize, lengths: &[usize]) -> Words {
    let mut random = synthetic::uniform("words", seed);
    let mut below = |limit: usize| ((random.next().unwrap() + 1.0) / 2.001 * limit as f32) as u32;
    let mut words = Words::default();
    for _ in 0..count {
        let spelling: Vec<u32> = (0..below(13)).map(|_| below(config.chars)).collect();
        words.add(below(config.words), spelling);
    }
    for &length in lengths {
        let rows: Vec<u32> = (0..length).map(|_| below(count)).collect();
        words.sequence(rows);
    }
    words
}

/// The scores by the CPU's operators, from tensors.
fn reference(vb: &VarBuilder<'_>, config: &TaggerConfig, words: &Words) -> Vec<f32> {
    let table = |name: &str, rows, size| {
        let tensor = vb.pp(name).get((rows, size), "weight").unwrap();
        to_vec(&tensor).unwrap()
    };
    let rows = |table: &[f32], size: usize, ids: &[u32]| -> Vec<f32> {
        ids.iter()
            .flat_map(|&id| table[id as usize * size..][..size].to_vec())
            .collect()
    };
    let tensor = |values: Vec<f32>, width: usize| {
        Tensor::from_vec(values.clone(), (values.len() / width, width), &Device::Cpu).unwrap()
    };
    let hidden = config.char_hidden;
    let chars = table("char_embedding", config.chars, config.char_size);
    let chars = tensor(
        rows(&chars, config.char_size, &words.chars),
        config.char_size,
    );
    let lstm = BiLstm::load(&vb.pp("char_lstm"), config.char_size, hidden).unwrap();
    let states = to_vec(&lstm.forward(&chars, &words.spellings).unwrap().hidden).unwrap();
    let table = table("word_embedding", config.words, config.word_size);
    let count = words.spellings.len();
    let mut features = Vec::new();
    for &word in &words.rows {
        let id = words.embeddings[word as usize];
        features.extend(rows(&table, config.word_size, &[id]));
        for d in 0..2 {
            features.extend_from_slice(&states[(d * count + word as usize) * hidden..][..hidden]);
        }
    }
    let width = config.word_size + 2 * hidden;
    let lstm = BiLstm::load(&vb.pp("word_lstm"), width, config.word_hidden).unwrap();
    let output = lstm
        .forward(&tensor(features, width), &words.lengths)
        .unwrap()
        .output;
    let dense = Dense::load(&vb.pp("dense"), 2 * config.word_hidden, config.dense).unwrap();
    let emission = Dense::load(&vb.pp("emission"), config.dense, config.tags).unwrap();
    emission.forward(&dense.forward_tanh(&to_vec(&output).unwrap()))
}

/// What a random field gives to a sequence's tags, and the most that it gives to any.
fn field_scores(vb: &VarBuilder<'_>, scores: &[f32], tags: &[u8]) -> (f32, f32) {
    let get =
        |shape: &[usize], name: &str| to_vec(&vb.pp("crf").get(shape, name).unwrap()).unwrap();
    let (start, end) = (get(&[3], "start"), get(&[3], "end"));
    let transitions = get(&[3, 3], "transitions");
    let score = |tags: &[u8]| {
        let tag = |i: usize| usize::from(tags[i]);
        let rows = (0..tags.len()).map(|i| scores[3 * i + tag(i)]);
        let steps = (1..tags.len()).map(|i| transitions[3 * tag(i - 1) + tag(i)]);
        start[tag(0)] + rows.sum::<f32>() + steps.sum::<f32>() + end[tag(tags.len() - 1)]
    };
    let count = tags.len() as u32;
    let all = (0..3_usize.pow(count)).map(|code| {
        let tags: Vec<u8> = (0..count)
            .map(|i| (code / 3_usize.pow(i) % 3) as u8)
            .collect();
        score(&tags)
    });
    (score(tags), all.fold(f32::MIN, f32::max))
}

#[test]
fn a_tagger_as_it_is_launched_is_the_one_of_the_cpu() {
    for (case, config, count, lengths) in [
        (1, ODD, 23, vec![5, 1, 0, 6, 2, 3]),
        (2, ODD, 40, vec![4; 13]),
        (3, SEGMENTER, 11, vec![6, 0, 3]),
        (4, ODD, 1, vec![1]),
    ] {
        let vb = synthetic::var_builder(case);
        let words = words(&config, case, count, &lengths);
        let want = reference(&vb, &config, &words);
        for element in ELEMENTS {
            let mut weights = Weights::new(element);
            let network = Network::load(&mut weights, &vb, &config).unwrap();
            words.check(network.config()).unwrap();
            let exact = Shape::of(&words);
            for (shape, wanted) in [
                (exact, Wanted::Scores),
                (exact.rounded(), Wanted::Scores),
                (exact.rounded(), Wanted::Tags),
            ] {
                let what = format!("case {case} in {}, {wanted:?} of {shape:?}", element.name());
                let places = network.places(shape, words.chars.len());
                let target = Target::hopper(element);
                let program = network.program(target, shape, &places, wanted).unwrap();
                let check = Check {
                    program: &program,
                    weights: weights.bytes().len(),
                    layout: places.layout,
                    input: places.input,
                    output: match wanted {
                        Wanted::Scores => places.scores,
                        Wanted::Tags => places.tags,
                    },
                };
                let mut memory = emulate(&check, &weights, |input| places.fill(&words, input));
                let got = of(&mut memory, check.output);
                if wanted == Wanted::Scores {
                    let scores = Element::F32.read(got);
                    assert_close(&what, &scores[..want.len()], &want, tolerance(element));
                    continue;
                }
                let mut first = 0;
                for &length in lengths.iter().filter(|length| **length > 0) {
                    let tags = &got[first..first + length];
                    let (score, highest) = field_scores(&vb, &want[3 * first..], tags);
                    let slack = length as f32 * 2.0 * tolerance(element);
                    assert!(
                        score >= highest - slack,
                        "{what}: {tags:?} have {score} of {highest}"
                    );
                    first += length;
                }
            }
        }
    }
}

#[test]
fn launches_name_the_same_places_for_any_number_of_characters() {
    let mut weights = Weights::new(Element::F16);
    let network = Network::load(&mut weights, &synthetic::var_builder(1), &ODD).unwrap();
    let shape = Shape {
        words: 5,
        rows: 7,
        sequences: 2,
    };
    let places = |chars| {
        let places = network.places(shape, chars);
        let program = network.program(Target::hopper(Element::F16), shape, &places, Wanted::Tags);
        let starts: Vec<_> = program
            .unwrap()
            .launches()
            .flat_map(|launch| launch.arguments.clone())
            .map(|argument| match argument {
                crate::cuda::Argument::Read(span) | crate::cuda::Argument::Write(span) => {
                    format!("{:?}", span.place)
                }
                other => format!("{other:?}"),
            })
            .collect();
        starts
    };
    assert_eq!(places(3), places(3000));
}

#[test]
fn shapes_are_rounded_to_few_and_by_little() {
    let round = |number| {
        let shape = Shape {
            words: number,
            rows: 0,
            sequences: 1,
        };
        shape.rounded().words
    };
    assert_eq!(
        [0, 1, 7, 8, 9, 15, 16, 17, 50, 57].map(round),
        [0, 1, 7, 8, 10, 16, 16, 20, 56, 64]
    );
    for number in 1..5000 {
        assert!(
            (number..=number + number / 4).contains(&round(number)),
            "{number}"
        );
        assert_eq!(round(round(number)), round(number));
    }
}

#[test]
fn words_that_do_not_exist_and_layers_that_no_kernel_takes_are_refused() {
    let with = |embedding, char, row| {
        let mut words = Words::default();
        words.add(embedding, [char]);
        words.sequence([row]);
        words.check(&ODD)
    };
    assert!(with(49, 19, 0).is_ok());
    for (words, what) in [
        (with(50, 0, 0), "embedding below 50, got 50"),
        (with(0, 20, 0), "character below 20, got 20"),
        (with(0, 0, 1), "word below 1, got 1"),
    ] {
        let error = words.unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let load = |element, input, hidden| {
        Operator::load(
            &mut Weights::new(element),
            &synthetic::var_builder(1),
            input,
            hidden,
        )
        .map_err(|error| error.to_string())
    };
    assert!(
        load(Element::F16, 3, 257)
            .unwrap_err()
            .contains("1 to 256 units, got 257")
    );
    assert!(
        load(Element::F16, 593, 3)
            .unwrap_err()
            .contains("592 inputs in f16, got 593")
    );
    assert!(load(Element::F16, 592, 3).is_ok() && load(Element::F32, 593, 3).is_ok());
}
