//! Plans of passes, and on a device what comes out beside the CPU.

use galley_core::synthetic;

use super::{
    model::Model,
    shape::{Input, Shape},
};
use crate::{
    Backend, Precision,
    activation::Activation,
    cuda::{Argument, Element, Layout, Target, Weights, check::Check},
    text::{Head, HeadLayer, Norm, Packed, Pooling, TensorNames, Transformer, TransformerConfig},
};

const SEED: u64 = 7;

/// A transformer's sizes and variant.
#[derive(Clone, Copy, Debug)]
struct Case {
    hidden: usize,
    heads: usize,
    /// None where features come out.
    labels: Option<usize>,
    pooling: Pooling,
    /// Whether it is as GPT-2 is, or as BERT.
    gpt2: bool,
}

const fn case(hidden: usize, heads: usize, labels: usize, pooling: Pooling, gpt2: bool) -> Case {
    let labels = if labels == 0 { None } else { Some(labels) };
    Case {
        hidden,
        heads,
        labels,
        pooling,
        gpt2,
    }
}

impl Case {
    /// Heads of 64, 32, 12 and 80 features, few labels, many and none, and rows of all tokens and of sequences.
    const ALL: [Self; 10] = [
        case(128, 2, 9, Pooling::Tokens, false),
        case(384, 12, 70, Pooling::Tokens, false),
        case(128, 4, 2, Pooling::First, false),
        case(48, 4, 3, Pooling::First, false),
        case(64, 2, 0, Pooling::Mean, false),
        case(64, 2, 0, Pooling::Tokens, false),
        case(128, 2, 100, Pooling::Tokens, true),
        case(64, 2, 5, Pooling::Last, true),
        case(1600, 20, 4, Pooling::Mean, true),
        case(48, 4, 0, Pooling::First, true),
    ];

    fn config(self) -> TransformerConfig {
        TransformerConfig {
            vocabulary: 100,
            max_positions: 200,
            token_types: if self.gpt2 { 0 } else { 2 },
            hidden: self.hidden,
            intermediate: 2 * self.hidden,
            layers: 2,
            heads: self.heads,
            layer_norm_eps: 1e-12,
            norm: if self.gpt2 { Norm::Pre } else { Norm::Post },
            causal: self.gpt2,
            activation: if self.gpt2 {
                Activation::GeluTanh
            } else {
                Activation::Gelu
            },
        }
    }

    fn names(self) -> &'static TensorNames {
        if self.gpt2 {
            &TensorNames::GPT2
        } else {
            &TensorNames::BERT
        }
    }

    fn head(self) -> Head {
        let vb = synthetic::var_builder(SEED);
        let layer = |name: &str, outputs, activation| {
            HeadLayer::load(&vb.pp(name), (self.hidden, outputs), activation).unwrap()
        };
        let last = self
            .labels
            .map(|labels| layer("classifier", labels, Activation::None));
        let pre = (self.pooling == Pooling::First && last.is_some())
            .then(|| layer("pre", self.hidden, Activation::Relu));
        Head {
            pooling: self.pooling,
            layers: pre.into_iter().chain(last).collect(),
        }
    }

    fn transformer(self, backend: &Backend) -> Transformer {
        let vb = synthetic::var_builder(SEED);
        Transformer::load(&self.config(), self.names(), &self.head(), backend, &vb).unwrap()
    }

    fn model(self, element: Element) -> (Model, Weights) {
        let mut weights = Weights::new(element);
        let vb = synthetic::var_builder(SEED);
        let (config, head) = (self.config(), self.head());
        let model = Model::load(&config, self.names(), &head, &vb, &mut weights).unwrap();
        (model, weights)
    }
}

fn batch(lengths: &[usize]) -> Packed {
    let id = |row: usize, i: usize| ((row * 31 + i * 17) % 100) as u32;
    Packed::new((lengths.iter().enumerate()).map(|(row, &n)| (0..n).map(move |i| id(row, i))))
}

/// One text, short and long ones, many of one token, and more than is recorded.
fn batches() -> Vec<Packed> {
    vec![
        batch(&[1]),
        batch(&[9, 33, 1, 20, 200, 64, 65]),
        batch(&[1; 70]),
        batch(&[130; 20]),
    ]
}

#[test]
fn nothing_is_read_that_was_not_written_or_is_beyond_the_memory() {
    for case in Case::ALL {
        for element in [Element::F16, Element::F32] {
            let (model, weights) = case.model(element);
            for target in [Target::hopper(element), Target::ampere(element)] {
                for batch in batches() {
                    let input = Input::new(&model, &batch, element).unwrap();
                    let plan = model.plan(input.shape, element);
                    let program = model.program(input.shape, &plan, &target).unwrap();
                    Check {
                        program: &program,
                        weights: weights.bytes().len(),
                        layout: plan.layout,
                        input: plan.input,
                        output: model.output(&plan, input.rows, element),
                    }
                    .run();
                    #[cfg(feature = "cuda")]
                    crate::cuda::tests::check_signatures(&program);
                }
            }
        }
    }
}

#[test]
fn products_go_to_the_kernels_for_their_rows_and_equal_shapes_have_equal_programs() {
    let (model, _) = Case::ALL[8].model(Element::F16);
    let target = Target::hopper(Element::F16);
    for (tokens, kernel) in [
        (64, "matmul_f16_16x16"),
        (80, "conv_f16_sm90"),
        (1024, "conv_f16_sm90"),
        (4096, "matmul_f16_sm90"),
    ] {
        let shape = Shape {
            tokens,
            sequences: 64,
            tiles: 64,
        };
        let program = || {
            let plan = model.plan(shape, Element::F16);
            model.program(shape, &plan, &target).unwrap()
        };
        // Those of the layers: the head's has the sequences' rows.
        let kernels: Vec<_> = (program().launches())
            .map(|launch| launch.kernel.clone())
            .take_while(|name| !name.starts_with("mean_tokens"))
            .collect();
        let products = (kernels.iter())
            .filter(|name| name.starts_with(kernel))
            .count();
        assert_eq!(products, 2 * 4, "{tokens}: {kernels:?}");
        assert_eq!(program().work(), program().work());
    }
}

#[test]
fn the_input_is_written_whole_and_ends_in_empty_sequences() {
    let (model, _) = Case::ALL[0].model(Element::F16);
    let batch = batch(&[3, 17, 2]);
    let input = Input::new(&model, &batch, Element::F16).unwrap();
    let rounded = Shape {
        tokens: 32,
        sequences: 4,
        tiles: 1,
    };
    assert_eq!((input.shape, input.rows), (rounded, 22));
    let plan = model.plan(rounded, Element::F16);
    let mut bytes = vec![0xff; plan.input.bytes];
    input.write(&plan, &mut bytes);
    let [ids, offsets, tiles] = plan.input_parts(rounded).map(|part| {
        let (words, rest) = bytes[part].as_chunks();
        assert!(rest.is_empty());
        let words = words.iter().copied().map(u32::from_le_bytes);
        words.collect::<Vec<_>>()
    });
    assert_eq!(ids[..22], *batch.ids());
    assert_eq!(ids[22..], [0; 10]);
    assert_eq!(offsets, [0, 3, 20, 22, 22]);
    assert_eq!(tiles, [!0, 0x0211_1103, 0x1413_0300, 0x0001_0000]);
}

#[test]
fn many_labels_come_back_without_what_fills_the_vectors() {
    let (model, _) = Case::ALL[1].model(Element::F32);
    let shape = Shape {
        tokens: 2,
        sequences: 1,
        tiles: 1,
    };
    let plan = model.plan(shape, Element::F32);
    let span = model.output(&plan, 2, Element::F32);
    assert_eq!(span.bytes, 2 * 72 * 4);
    let values = (0..144).map(|i| i as f32);
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let logits = model.values(&bytes, Element::F32);
    assert_eq!(logits.len(), 140);
    assert_eq!(logits[69..72], [69.0, 72.0, 73.0]);
}

#[test]
fn sizes_that_the_kernels_do_not_have_are_refused() {
    let config = Case::ALL[0].config();
    for (hidden, heads) in [(1800, 30), (132, 2), (512, 2), (128, 3), (128, 0)] {
        let config = TransformerConfig {
            hidden,
            heads,
            ..config.clone()
        };
        let head = Case {
            hidden,
            ..Case::ALL[0]
        }
        .head();
        let mut weights = Weights::new(Element::F16);
        let vb = synthetic::var_builder(SEED);
        let loaded = Model::load(&config, &TensorNames::BERT, &head, &vb, &mut weights);
        assert!(loaded.is_err(), "{hidden} {heads}");
    }
}

#[test]
fn the_input_of_a_pass_is_its_first_memory() {
    let (model, _) = Case::ALL[0].model(Element::F16);
    let shape = Shape {
        tokens: 64,
        sequences: 1,
        tiles: 1,
    };
    let plan = model.plan(shape, Element::F16);
    let mut layout = Layout::default();
    assert_eq!(plan.input.place, layout.place(1).place);
}

#[test]
fn the_cpu_gives_the_rows_that_the_head_makes() {
    for case in Case::ALL {
        let transformer = case.transformer(&Precision::F32.into());
        let got = transformer.forward(&batch(&[9, 33, 1])).unwrap();
        let rows = if case.pooling == Pooling::Tokens {
            43
        } else {
            3
        };
        assert_eq!(got.dims(), [rows, case.labels.unwrap_or(case.hidden)]);
        assert_eq!(transformer.outputs(), got.dims()[1]);
        let empty = transformer.forward(&batch(&[2, 0]));
        assert_eq!(empty.is_ok(), case.pooling == Pooling::Tokens);
    }
}

#[test]
fn causal_attention_has_kernels_of_its_own() {
    for (case, element, kernel, last) in [
        (Case::ALL[0], Element::F16, "attention_f16_d64", None),
        (Case::ALL[6], Element::F16, "attention_f16_d64_causal", None),
        (Case::ALL[6], Element::F32, "attention_f32", Some(1)),
        (Case::ALL[0], Element::F32, "attention_f32", Some(0)),
    ] {
        let (model, _) = case.model(element);
        let input_batch = batch(&[9, 33]);
        let input = Input::new(&model, &input_batch, element).unwrap();
        let plan = model.plan(input.shape, element);
        let program = model
            .program(input.shape, &plan, &Target::hopper(element))
            .unwrap();
        let attention: Vec<_> = (program.launches())
            .filter(|launch| launch.kernel.starts_with("attention"))
            .collect();
        assert_eq!(attention.len(), 2);
        for launch in attention {
            assert_eq!(launch.kernel, kernel);
            if let Some(last) = last {
                assert_eq!(launch.arguments.last(), Some(&Argument::Word(last)));
            }
        }
    }
}

#[cfg(feature = "cuda")]
mod on_a_device {
    use super::*;
    use crate::{backend::Kind, cuda::tests::device, host::tests::flat};

    /// What comes out for all batches, each run three times: launched one by one, recorded, and as recorded.
    fn compare(element: Element, tolerance: f32) {
        let Some(gpu) = device(element) else { return };
        for case in Case::ALL {
            let cpu = case.transformer(&Precision::F32.into());
            let cuda = case.transformer(&Backend(Kind::Cuda(gpu.clone())));
            for batch in batches() {
                let expected = flat(&cpu.forward(&batch).unwrap());
                let runs = [(); 3].map(|()| flat(&cuda.forward(&batch).unwrap()));
                assert_eq!(runs[0], runs[1]);
                assert_eq!(runs[0], runs[2]);
                let largest = expected.iter().fold(1f32, |most, x| most.max(x.abs()));
                for (got, expected) in runs[0].iter().zip(&expected) {
                    let error = (got - expected).abs();
                    assert!(
                        error <= tolerance * largest,
                        "{case:?}: {got}, expected {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn logits_in_f32_are_the_cpus() {
        compare(Element::F32, 1e-4);
    }

    #[test]
    fn logits_in_f16_are_near_the_cpus() {
        compare(Element::F16, 2e-2);
    }

    #[test]
    fn a_text_does_not_depend_on_its_batch() {
        let Some(gpu) = device(Element::F32) else {
            return;
        };
        for case in Case::ALL {
            let cuda = case.transformer(&Backend(Kind::Cuda(gpu.clone())));
            let lengths = [9, 33, 1, 20, 130];
            let together = flat(&cuda.forward(&batch(&lengths)).unwrap());
            let all = batch(&lengths);
            let alone: Vec<f32> = (all.offsets().windows(2))
                .flat_map(|row| {
                    let ids = all.ids()[row[0]..row[1]].iter().copied();
                    flat(&cuda.forward(&Packed::new([ids])).unwrap())
                })
                .collect();
            assert_eq!(together, alone, "{case:?}");
        }
    }

    #[test]
    fn passes_run_at_the_same_time() {
        let Some(gpu) = device(Element::F16) else {
            return;
        };
        let cuda = Case::ALL[0].transformer(&Backend(Kind::Cuda(gpu)));
        let expected: Vec<_> = (batches().iter())
            .map(|batch| flat(&cuda.forward(batch).unwrap()))
            .collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (batch, expected) in batches().iter().zip(&expected) {
                        assert_eq!(&flat(&cuda.forward(batch).unwrap()), expected);
                    }
                });
            }
        });
    }
}
