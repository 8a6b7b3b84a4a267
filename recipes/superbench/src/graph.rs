//! The models as graphs: what training differentiates.
//!
//! They have what inference folds away: the table of token types, of which only the first row is looked up, and both biases of
//! an LSTM's gates.

use galley_nn::{
    graph::{Builder, End, Graph, Lstm, Mistake, Value},
    text::{Activation, TensorNames},
};

use crate::{
    network::CLASSES,
    zoo::{Family, Model},
};

/// What transformers drops of BERT and GPT-2 in training, wherever it does.
const DROPOUT: f64 = 0.1;

impl Model {
    /// The logits of sequences of so many tokens or steps: of BERT's pooled first token, of GPT-2's last token, of the LSTM's last
    /// step. The benchmark's loss sees nothing else.
    ///
    /// # Errors
    /// There are more tokens than positions, or none.
    pub(crate) fn graph(&self, length: usize) -> Result<Graph, Mistake> {
        let (mut net, x) = match self.family {
            Family::Bert => {
                let (mut net, x) = self.tokens((&TensorNames::BERT, "_bert"), length);
                let x = net.pick(x, End::First);
                let x = net.linear("_bert.pooler.dense", x, self.hidden);
                let x = net.activation(x, Activation::Tanh);
                (net, x)
            }
            Family::Gpt2 => {
                let (mut net, x) = self.tokens((&TensorNames::GPT2, "_gpt2"), length);
                let x = net.pick(x, End::Last);
                (net, x)
            }
            Family::Lstm => {
                let config = self.lstm();
                let mut net = Builder::new(config.input, [1, length]);
                let mut x = net.input();
                for layer in 0..config.layers {
                    let prefix = "_lstm".into();
                    x = net.lstm(Lstm { prefix, layer }, x, config.hidden);
                }
                let x = net.pick(x, End::Last);
                (net, x)
            }
        };
        let x = net.linear("_linear", x, CLASSES);
        net.finish(x)
    }

    fn tokens(&self, names: (&TensorNames, &str), length: usize) -> (Builder, Value) {
        let mut net = Builder::of_ids(length);
        let x = self.transformer().describe(&mut net, names, DROPOUT);
        (net, x)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::zoo::{MODELS, find};

    #[test]
    fn parameters_are_as_many_as_superbenchs() {
        let expected = [
            109_559_140,
            335_244_388,
            124_516_708,
            354_925_668,
            774_158_180,
            1_557_771_300,
            64_131_172,
        ];
        for (model, expected) in MODELS.iter().zip(expected) {
            let graph = model.graph(512).unwrap();
            assert_eq!(graph.parameter_count(), expected, "{}", model.name);
        }
    }

    /// Names and shapes of a model's tensors.
    fn parameters(name: &str) -> HashMap<String, Vec<usize>> {
        find(name).unwrap().graph(8).unwrap().parameters().collect()
    }

    #[test]
    fn tensors_have_the_names_and_shapes_of_the_benchmarks_state_dict() {
        for (model, tensors, some) in [
            (
                "bert-base",
                5 + 12 * 16 + 4,
                vec![
                    ("_bert.embeddings.word_embeddings.weight", vec![30_522, 768]),
                    (
                        "_bert.embeddings.position_embeddings.weight",
                        vec![512, 768],
                    ),
                    (
                        "_bert.embeddings.token_type_embeddings.weight",
                        vec![2, 768],
                    ),
                    ("_bert.embeddings.LayerNorm.bias", vec![768]),
                    (
                        "_bert.encoder.layer.11.attention.self.key.weight",
                        vec![768, 768],
                    ),
                    (
                        "_bert.encoder.layer.0.attention.output.dense.bias",
                        vec![768],
                    ),
                    (
                        "_bert.encoder.layer.0.attention.output.LayerNorm.weight",
                        vec![768],
                    ),
                    (
                        "_bert.encoder.layer.3.intermediate.dense.weight",
                        vec![3072, 768],
                    ),
                    ("_bert.encoder.layer.3.output.dense.weight", vec![768, 3072]),
                    ("_bert.encoder.layer.11.output.LayerNorm.bias", vec![768]),
                    ("_bert.pooler.dense.weight", vec![768, 768]),
                    ("_linear.weight", vec![100, 768]),
                ],
            ),
            (
                "gpt2-small",
                2 + 12 * 12 + 4,
                vec![
                    ("_gpt2.wte.weight", vec![50_257, 768]),
                    ("_gpt2.wpe.weight", vec![1024, 768]),
                    ("_gpt2.h.0.ln_1.weight", vec![768]),
                    ("_gpt2.h.0.attn.c_attn.weight", vec![768, 2304]),
                    ("_gpt2.h.0.attn.c_attn.bias", vec![2304]),
                    ("_gpt2.h.0.attn.c_proj.weight", vec![768, 768]),
                    ("_gpt2.h.11.ln_2.bias", vec![768]),
                    ("_gpt2.h.11.mlp.c_fc.weight", vec![768, 3072]),
                    ("_gpt2.h.11.mlp.c_proj.weight", vec![3072, 768]),
                    ("_gpt2.ln_f.weight", vec![768]),
                    ("_linear.bias", vec![100]),
                ],
            ),
            (
                "lstm",
                8 * 4 + 2,
                vec![
                    ("_lstm.weight_ih_l0", vec![4096, 256]),
                    ("_lstm.weight_ih_l7", vec![4096, 1024]),
                    ("_lstm.weight_hh_l7", vec![4096, 1024]),
                    ("_lstm.bias_ih_l3", vec![4096]),
                    ("_lstm.bias_hh_l3", vec![4096]),
                    ("_linear.weight", vec![100, 1024]),
                ],
            ),
        ] {
            let parameters = parameters(model);
            assert_eq!(parameters.len(), tensors, "{model}");
            for (name, shape) in some {
                assert_eq!(parameters.get(name), Some(&shape), "{name}");
            }
        }
    }

    #[test]
    fn more_tokens_than_positions_are_refused() {
        let told = find("gpt2-small")
            .unwrap()
            .graph(1025)
            .unwrap_err()
            .to_string();
        let expected = "_gpt2.wpe: expected 1024 tokens at most, got [1, 1, 1025]";
        assert_eq!(told, expected);
        assert!(find("lstm").unwrap().graph(0).is_err());
    }
}
