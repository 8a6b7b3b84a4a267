//! Layers of sequences, and small networks of them: fast, in the plainest way, and by differences.

use super::{
    Case, Optimizer, Settings, check_on_device, descent, dropped, gradients::check_by_differences,
    kept, steps::worst,
};
use crate::{
    graph::{
        Activation, Attention, Builder, Convolution, Embedding, End, Graph, Lstm, Row, Stored,
        Value,
    },
    text::{Norm, TensorNames, TransformerConfig},
    train::{Form, Operation, differentiate},
};

/// The gradients of a step are the reference's, and those are what the loss follows, whatever is dropped.
fn check(graph: &Graph) {
    for seed in [None, Some(5)] {
        let what = format!("dropout {seed:?}");
        let case = Case::new(graph.clone(), 3, 11);
        let mut trainer = case.trainer(&descent(0.1, seed));
        trainer.plan().verify().unwrap();
        let loss = trainer.step(&case.input, &case.labels).unwrap().loss;
        let expected = match seed {
            None => {
                check_by_differences(graph.clone(), 3, 11, &kept);
                case.reference(&case.numbers(), &kept)
            }
            Some(seed) => {
                check_by_differences(graph.clone(), 3, 11, &dropped(seed));
                case.reference(&case.numbers(), &dropped(seed))
            }
        };
        let off = (loss - expected.loss).abs();
        assert!(off < 1e-5, "{what}: {loss}, expected {}", expected.loss);
        let (off, name) = worst(&mut trainer, &expected);
        assert!(off < 1e-4, "{what}, {name}: off by {off}\n{graph:#?}");
        check_on_device(&format!("{graph:#?}"), &case, seed, &expected);
    }
}

/// A layer between two with weights, on sequences of seven steps.
fn around(features: usize, layer: &dyn Fn(&mut Builder, Value) -> Value) {
    let mut net = Builder::new(3, [1, 7]);
    let stem = Convolution::dense(features, Stored::Linear);
    let x = net.convolution("stem", net.input(), stem);
    let x = layer(&mut net, x);
    let x = net.linear("fc", x, 4);
    check(&net.finish(x).unwrap());
}

#[test]
fn each_layer_of_sequences() {
    around(9, &|net, x| net.layer_norm("norm", x, 1e-5));
    around(9, &|net, x| net.pick(x, End::First));
    around(9, &|net, x| {
        let y = net.pick(x, End::Last);
        let z = net.pick(x, End::First);
        net.sum(y, z)
    });
    around(9, &|net, x| {
        net.convolution("turned", x, Convolution::dense(5, Stored::Conv1d))
    });
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Tanh] {
        around(9, &|net, x| net.activation(x, activation));
    }
    for (causal, dropout) in [(false, 0.0), (true, 0.0), (false, 0.4), (true, 0.4)] {
        let heads = 2;
        let attention = Attention {
            heads,
            causal,
            dropout,
        };
        around(18, &|net, x| {
            let y = net.attention(x, attention.clone());
            // The queries' gradient joins that of what is added.
            let x = net.slice(x, 0, 6);
            net.sum(x, y)
        });
    }
    let lstm = |layer| Lstm {
        prefix: "cell".into(),
        layer,
    };
    around(5, &|net, x| {
        let x = net.lstm(lstm(0), x, 6);
        net.lstm(lstm(1), x, 3)
    });
}

#[test]
fn embeddings_of_all_kinds() {
    let mut net = Builder::of_ids(6);
    let ids = net.input();
    let mut sum = None;
    for (name, rows, by) in [
        ("words", 11, Row::Id),
        ("places", 8, Row::Place),
        ("types", 2, Row::First),
    ] {
        let x = net.embedding(name, ids, Embedding::new(rows, by), 5);
        sum = Some(sum.map_or(x, |sum| net.sum(sum, x)));
    }
    let x = net.layer_norm("norm", sum.unwrap(), 1e-5);
    let x = net.linear("fc", x, 4);
    check(&net.finish(x).unwrap());
}

/// Of which the loss takes notice all the same.
#[test]
fn the_row_of_padding_is_not_trained() {
    let mut net = Builder::of_ids(6);
    let words = Embedding {
        padding: Some(3),
        ..Embedding::new(11, Row::Id)
    };
    let x = net.embedding("words", net.input(), words, 5);
    let x = net.linear("fc", x, 4);
    let case = Case::new(net.finish(x).unwrap(), 3, 11);
    assert!(case.input.contains(&3.0));
    let mut trainer = case.trainer(&descent(0.1, None));
    trainer.step(&case.input, &case.labels).unwrap();
    let expected = case.reference(&case.numbers(), &kept);
    let (off, name) = worst(&mut trainer, &expected);
    assert!(off < 1e-4, "{name}: off by {off}");
    let table = &expected.gradients["words.weight"];
    let trained = |row: usize| table[row * 5..][..5].iter().any(|x| *x != 0.0);
    assert!(!trained(3) && trained(2) && trained(4));
}

/// A small BERT, or GPT-2.
fn transformer(causal: bool, dropout: f64) -> Graph {
    let config = TransformerConfig {
        vocabulary: 30,
        max_positions: 12,
        token_types: if causal { 0 } else { 2 },
        hidden: 16,
        intermediate: 24,
        layers: 2,
        heads: 2,
        layer_norm_eps: 1e-5,
        norm: if causal { Norm::Pre } else { Norm::Post },
        causal,
        activation: match causal {
            true => Activation::GeluTanh,
            false => Activation::Gelu,
        },
    };
    let mut net = Builder::of_ids(10);
    let names = if causal {
        TensorNames::GPT2
    } else {
        TensorNames::BERT
    };
    let x = config.describe(&mut net, (&names, "model"), dropout);
    let x = match causal {
        true => net.pick(x, End::Last),
        false => {
            let x = net.pick(x, End::First);
            let x = net.linear("pooler", x, 16);
            net.activation(x, Activation::Tanh)
        }
    };
    let x = net.linear("head", x, 5);
    net.finish(x).unwrap()
}

pub(super) fn lstm() -> Graph {
    let mut net = Builder::new(6, [1, 9]);
    let mut x = net.input();
    for layer in 0..3 {
        let prefix = "lstm".into();
        x = net.lstm(Lstm { prefix, layer }, x, 20);
    }
    let x = net.pick(x, End::Last);
    let x = net.linear("head", x, 5);
    net.finish(x).unwrap()
}

#[test]
fn small_transformers_and_lstms() {
    for causal in [false, true] {
        check(&transformer(causal, 0.1));
    }
    check(&lstm());
}

/// What transformers drops: embeddings, attention's weights, and what each block gives.
#[test]
fn dropout_is_where_transformers_has_it() {
    let names = |causal| -> Vec<String> {
        let graph = transformer(causal, 0.1);
        let form = |dropout| Form { batch: 2, dropout };
        let plan = differentiate(&graph, form(true)).unwrap();
        let dropped = plan
            .layers
            .iter()
            .filter_map(|layer| match &layer.operation {
                Operation::Dropout { share, .. } => Some((layer, *share)),
                Operation::Attention { attention, .. } => Some((layer, attention.dropout)),
                _ => None,
            });
        let names = dropped.map(|(layer, share)| {
            assert_eq!(share, 0.1);
            layer.name.clone()
        });
        let names = names.collect();
        let plan = differentiate(&graph, form(false)).unwrap();
        assert!(plan.layers.iter().all(|layer| match &layer.operation {
            Operation::Attention { attention, .. } => attention.dropout == 0.0,
            operation => !matches!(operation, Operation::Dropout { .. }),
        }));
        names
    };
    let bert = "model.encoder.layer";
    assert_eq!(
        names(false)[..4],
        [
            "dropout after model.embeddings.LayerNorm".into(),
            format!("attention after {bert}.0.attention.self.value"),
            format!("dropout after {bert}.0.attention.output.dense"),
            format!("dropout after {bert}.0.output.dense"),
        ]
    );
    assert_eq!(
        names(true)[..4],
        [
            "dropout after model.wte",
            "attention after model.h.0.attn.c_attn",
            "dropout after model.h.0.attn.c_proj",
            "dropout after model.h.0.mlp.c_proj",
        ]
    );
    assert_eq!(names(true).len(), 1 + 2 * 3);
}

#[test]
fn sequences_are_learnt() {
    for graph in [transformer(false, 0.1), transformer(true, 0.1), lstm()] {
        let mut case = Case::new(graph, 6, 3);
        if case.graph.nodes()[0].op == crate::graph::Op::Ids {
            // No two sequences of ten are the same.
            for (i, id) in case.input.iter_mut().enumerate() {
                *id = (1 + (i * 7 + i / 10) % 10) as f32;
            }
        }
        for dropout in [None, Some(1)] {
            let optimizer = Optimizer::ADAM_W.with_rate(0.002);
            let mut trainer = case.trainer(&Settings {
                optimizer,
                dropout,
                pure_half: false,
            });
            let mut step = || trainer.step(&case.input, &case.labels).unwrap().loss;
            let first = step();
            let losses: Vec<f64> = (0..400).map(|_| step()).collect();
            let last = losses[380..].iter().sum::<f64>() / 20.0;
            let input = &case.graph.nodes()[0];
            assert!(
                last < 0.7 * first,
                "{input:?}, {dropout:?}: from {first} to {last}"
            );
        }
    }
}

#[test]
fn ids_beyond_the_vocabulary_are_told() {
    let case = Case::new(transformer(true, 0.0), 2, 3);
    let mut trainer = case.trainer(&descent(0.1, None));
    for id in [30.0, -1.0, 0.5, f32::NAN] {
        let mut input = case.input.clone();
        input[7] = id;
        let told = trainer.step(&input, &case.labels).unwrap_err().to_string();
        let expected = format!("expected token ids below 30, got {id}");
        assert_eq!(told.lines().next(), Some(&expected[..]));
    }
}
