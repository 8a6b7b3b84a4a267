//! A training step node by node, in the plainest way and in f64: what everything fast is held against.
//!
//! Most layers are sums of terms, a value times a number or a weight each. So they are said once, as their terms, and what runs
//! forward and what runs backward follows. Values are `[batch, height, width, channels]`.

mod functions;
mod layers;
pub(crate) mod sequences;

use std::collections::HashMap;

use self::functions::{activate, cross_entropy, moments};
use crate::graph::{End, Graph, Node, Op, Reduction, Stored, field};

/// Tensors by name.
pub(crate) type Tensors = HashMap<String, Vec<f64>>;

/// What a dropout's values are multiplied by: of a node, so many.
pub(crate) type Factors<'a> = &'a dyn Fn(usize, usize, f64) -> Vec<f64>;

/// A network, its numbers, and a batch.
#[derive(Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) weights: &'a Tensors,
    pub(crate) input: &'a [f64],
    pub(crate) labels: &'a [u32],
    pub(crate) factors: Factors<'a>,
}

/// What a step computes.
pub(crate) struct Outcome {
    pub(crate) loss: f64,
    pub(crate) gradients: Tensors,
    /// Mean and biased variance of what each BatchNorm read.
    pub(crate) statistics: HashMap<String, [Vec<f64>; 2]>,
}

/// `y[output] += factor * x[input]`, where `x` is what the node reads in this place.
struct Term {
    output: usize,
    operand: usize,
    input: usize,
    factor: Factor,
}

#[derive(Clone, Copy)]
enum Factor {
    Number(f64),
    /// A value of the node's weight.
    Weight(usize),
    /// A value of the node's second input.
    Gate(usize),
}

impl Step<'_> {
    /// The loss, and its gradients by all parameters.
    pub(crate) fn run(&self) -> Outcome {
        let mut statistics = HashMap::new();
        let values = self.forward(&mut statistics);
        let mut gradients: Vec<Vec<f64>> = values.iter().map(|x| vec![0.0; x.len()]).collect();
        let mut loss = 0.0;
        let auxiliary = self.graph.auxiliary().iter();
        let auxiliary = auxiliary.map(|auxiliary| (auxiliary.logits, auxiliary.weight));
        for (logits, weight) in auxiliary.chain([(self.graph.output(), 1.0)]) {
            let logits = logits.index();
            let (values, gradient) = (&values[logits], &mut gradients[logits]);
            loss += weight * cross_entropy(values, self.labels, weight, gradient);
        }
        let mut outcome = Outcome {
            loss,
            gradients: Tensors::new(),
            statistics,
        };
        for index in (0..values.len()).rev() {
            let dy = std::mem::take(&mut gradients[index]);
            self.backward(index, &dy, &values, &mut gradients, &mut outcome);
        }
        outcome
    }

    /// What all nodes give.
    fn forward(&self, statistics: &mut HashMap<String, [Vec<f64>; 2]>) -> Vec<Vec<f64>> {
        let mut values: Vec<Vec<f64>> = Vec::new();
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let channels = node.shape.channels;
            let mut y = vec![0.0; self.labels.len() * node.shape.values()];
            match &node.op {
                Op::Input | Op::Ids => y.copy_from_slice(self.input),
                Op::Embedding(_) | Op::LayerNorm { .. } | Op::Attention(_) | Op::Lstm(_) => {
                    let x = &values[node.inputs[0].index()];
                    y = self.sequence(index, x, None).remove(0);
                }
                Op::Activation(activation) => {
                    let x = &values[node.inputs[0].index()];
                    y = x.iter().map(|x| activate(*activation, *x)[0]).collect();
                }
                Op::BatchNorm { eps } => {
                    let x = &values[node.inputs[0].index()];
                    let [mean, variance] = moments(x, channels);
                    let [scale, shift] = ["weight", "bias"].map(|part| self.tensor(node, part));
                    for (i, y) in y.iter_mut().enumerate() {
                        let c = i % channels;
                        *y = (x[i] - mean[c]) / (variance[c] + eps).sqrt() * scale[c] + shift[c];
                    }
                    statistics.insert(node.name.clone(), [mean, variance]);
                }
                _ => {
                    if let Some(bias) = self.weights.get(&format!("{}.bias", node.name)) {
                        for (i, y) in y.iter_mut().enumerate() {
                            *y = bias[i % channels];
                        }
                    }
                    self.terms(index, &values, &mut |term| {
                        let x = values[node.inputs[term.operand].index()][term.input];
                        y[term.output] += self.factor(node, &values, term.factor) * x;
                    });
                }
            }
            values.push(y);
        }
        values
    }

    /// Adds to the gradients of what a node read, and gives those of its tensors.
    fn backward(
        &self,
        index: usize,
        dy: &[f64],
        values: &[Vec<f64>],
        gradients: &mut [Vec<f64>],
        outcome: &mut Outcome,
    ) {
        let node = &self.graph.nodes()[index];
        let channels = node.shape.channels;
        match &node.op {
            Op::Input | Op::Ids => (),
            Op::Embedding(_) | Op::LayerNorm { .. } | Op::Attention(_) | Op::Lstm(_) => {
                let input = node.inputs[0].index();
                let mut given = self.sequence(index, &values[input], Some(dy)).into_iter();
                for (dx, given) in gradients[input]
                    .iter_mut()
                    .zip(given.next().unwrap_or_default())
                {
                    *dx += given;
                }
                let names = self.graph.parameters_of(node).into_iter();
                outcome
                    .gradients
                    .extend(names.map(|(name, _)| name).zip(given));
            }
            Op::Activation(activation) => {
                let input = node.inputs[0].index();
                let x = values[input].iter().zip(dy);
                for (dx, (x, dy)) in gradients[input].iter_mut().zip(x) {
                    *dx += dy * activate(*activation, *x)[1];
                }
            }
            Op::BatchNorm { eps } => {
                let input = node.inputs[0].index();
                let x = &values[input];
                let count = (x.len() / channels) as f64;
                let [mean, variance] = &outcome.statistics[&node.name];
                let scale = self.tensor(node, "weight");
                let root = |c: usize| (variance[c] + eps).sqrt();
                let normal = |i: usize| (x[i] - mean[i % channels]) / root(i % channels);
                let [mut dscale, mut dshift] = [vec![0.0; channels], vec![0.0; channels]];
                for (i, dy) in dy.iter().enumerate() {
                    dscale[i % channels] += dy * normal(i);
                    dshift[i % channels] += dy;
                }
                for (i, dx) in gradients[input].iter_mut().enumerate() {
                    let c = i % channels;
                    let rest = dy[i] - (dshift[c] + normal(i) * dscale[c]) / count;
                    *dx += scale[c] / root(c) * rest;
                }
                outcome
                    .gradients
                    .insert(format!("{}.weight", node.name), dscale);
                outcome
                    .gradients
                    .insert(format!("{}.bias", node.name), dshift);
            }
            _ => {
                if let Some(bias) = self.weights.get(&format!("{}.bias", node.name)) {
                    let mut dbias = vec![0.0; bias.len()];
                    for (i, dy) in dy.iter().enumerate() {
                        dbias[i % channels] += dy;
                    }
                    outcome
                        .gradients
                        .insert(format!("{}.bias", node.name), dbias);
                }
                let weight = self.weights.get(&format!("{}.weight", node.name));
                let mut dweight = vec![0.0; weight.map_or(0, Vec::len)];
                self.terms(index, values, &mut |term| {
                    let input = node.inputs[term.operand].index();
                    let (x, dy) = (values[input][term.input], dy[term.output]);
                    gradients[input][term.input] += self.factor(node, values, term.factor) * dy;
                    match term.factor {
                        Factor::Number(_) => (),
                        Factor::Weight(i) => dweight[i] += x * dy,
                        Factor::Gate(i) => gradients[node.inputs[1].index()][i] += x * dy,
                    }
                });
                if weight.is_some() {
                    outcome
                        .gradients
                        .insert(format!("{}.weight", node.name), dweight);
                }
            }
        }
    }

    fn tensor(&self, node: &Node, part: &str) -> &[f64] {
        &self.weights[&format!("{}.{part}", node.name)]
    }

    fn factor(&self, node: &Node, values: &[Vec<f64>], factor: Factor) -> f64 {
        match factor {
            Factor::Number(number) => number,
            Factor::Weight(i) => self.tensor(node, "weight")[i],
            Factor::Gate(i) => values[node.inputs[1].index()][i],
        }
    }

    /// All terms of a node.
    fn terms(&self, index: usize, values: &[Vec<f64>], each: &mut dyn FnMut(Term)) {
        let node = &self.graph.nodes()[index];
        let to = node.shape;
        let from = self.graph.shape(node.inputs[0]);
        let batch = self.labels.len();
        let factors = match node.op {
            Op::Dropout { share } => (self.factors)(index, batch * to.values(), share),
            _ => vec![1.0; batch * to.values()],
        };
        for (output, kept) in factors.into_iter().enumerate() {
            let (place, channel) = (output / to.channels, output % to.channels);
            let (image, pixel) = (place / to.pixels(), place % to.pixels());
            let at = [pixel / to.width, pixel % to.width];
            // The same pixel of an operand, in which channels are others.
            let same = |operand: usize, channel: usize| {
                let channels = self.graph.shape(node.inputs[operand]).channels;
                Term {
                    output,
                    operand,
                    input: place * channels + channel,
                    factor: Factor::Number(1.0),
                }
            };
            let input = |[y, x]: [usize; 2], channel: usize| {
                ((image * from.height + y) * from.width + x) * from.channels + channel
            };
            match &node.op {
                Op::Input
                | Op::Ids
                | Op::BatchNorm { .. }
                | Op::Activation(_)
                | Op::Embedding(_)
                | Op::LayerNorm { .. }
                | Op::Attention(_)
                | Op::Lstm(_) => unreachable!("they are no sums of terms"),
                Op::Pick(end) => {
                    let token = match end {
                        End::First => 0,
                        End::Last => from.width - 1,
                    };
                    each(term(output, input([0, token], channel), 1.0));
                }
                Op::Add => {
                    each(same(0, channel));
                    each(same(1, channel));
                }
                Op::Concat => {
                    let mut channel = channel;
                    for (operand, value) in node.inputs.iter().enumerate() {
                        let channels = self.graph.shape(*value).channels;
                        if channel < channels {
                            each(same(operand, channel));
                            break;
                        }
                        channel -= channels;
                    }
                }
                Op::Slice { first } => each(same(0, first + channel)),
                Op::Shuffle { groups } => {
                    let each_group = to.channels / groups;
                    each(same(0, channel % groups * each_group + channel / groups));
                }
                Op::Gate => each(Term {
                    factor: Factor::Gate(image * to.channels + channel),
                    ..same(0, channel)
                }),
                Op::Dropout { .. } => each(Term {
                    factor: Factor::Number(kept),
                    ..same(0, channel)
                }),
                Op::Linear => {
                    for i in 0..from.values() {
                        let (channel_of, pixel) = (i / from.pixels(), i % from.pixels());
                        let at = [pixel / from.width, pixel % from.width];
                        each(Term {
                            output,
                            operand: 0,
                            input: input(at, channel_of),
                            factor: Factor::Weight(channel * from.values() + i),
                        });
                    }
                }
                Op::Convolution(layer) => {
                    let [down, across] = layer.window.kernel;
                    let inputs = from.channels / layer.groups;
                    let first = channel / (to.channels / layer.groups) * inputs;
                    for tap in 0..inputs * down * across {
                        let tap_at = [tap / across % down, tap % across];
                        let place: [Option<usize>; 2] = std::array::from_fn(|axis| {
                            let place = at[axis] * layer.window.stride[axis] + tap_at[axis];
                            let place = place.checked_sub(layer.window.padding[axis])?;
                            (place < [from.height, from.width][axis]).then_some(place)
                        });
                        if let [Some(y), Some(x)] = place {
                            each(Term {
                                output,
                                operand: 0,
                                input: input([y, x], first + tap / (down * across)),
                                factor: Factor::Weight(match layer.stored {
                                    Stored::Conv1d => tap * to.channels + channel,
                                    _ => channel * inputs * down * across + tap,
                                }),
                            });
                        }
                    }
                }
                Op::Pool(pool) => {
                    let (down, tall) = pool.window.pixels(0, from.height, at[0]);
                    let (across, wide) = pool.window.pixels(1, from.width, at[1]);
                    let count = (down.len() * across.len()) as f64;
                    let places: Vec<usize> = down
                        .flat_map(|y| across.clone().map(move |x| [y, x]))
                        .map(|at| input(at, channel))
                        .collect();
                    let share = match pool.reduction {
                        Reduction::Max => {
                            let x = &values[node.inputs[0].index()];
                            // The first of the largest.
                            let mut largest = places[0];
                            for place in &places {
                                if x[*place] > x[largest] {
                                    largest = *place;
                                }
                            }
                            each(term(output, largest, 1.0));
                            continue;
                        }
                        Reduction::Mean {
                            count_padding: true,
                        } => 1.0 / (tall * wide) as f64,
                        Reduction::Mean {
                            count_padding: false,
                        } => 1.0 / count,
                    };
                    places
                        .into_iter()
                        .for_each(|place| each(term(output, place, share)));
                }
                Op::AdaptiveMean => {
                    let down = field(from.height, to.height, at[0]);
                    let across = field(from.width, to.width, at[1]);
                    let share = 1.0 / (down.len() * across.len()) as f64;
                    for y in down {
                        for x in across.clone() {
                            each(term(output, input([y, x], channel), share));
                        }
                    }
                }
            }
        }
    }
}

fn term(output: usize, input: usize, share: f64) -> Term {
    Term {
        output,
        operand: 0,
        input,
        factor: Factor::Number(share),
    }
}
