//! From a network to its training step.
//!
//! BatchNorm, the sum after it and ReLU are one layer where nobody else looks at what is between them. Then each layer is
//! asked, last to first, for the gradients of what it read; the first to give one writes it and all others add to it.

use std::collections::HashMap;

use super::{
    Backward, Layer, Loss, Onto, Operand, Operation, Plan, Tensor,
    place::{self, Place},
};
use crate::{
    graph::{Activation, Convolution, Graph, Mistake, Node, Op, Stored, Window},
    plan::memory::UNIT,
};

/// What a training step is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Examples of a step.
    pub batch: usize,
    /// Whether dropout does anything.
    pub dropout: bool,
}

/// A network's training step. Layers that no loss depends on are no part of it.
///
/// # Errors
/// The answer is not one row of logits, or BatchNorm would see a single value of each channel.
pub fn differentiate(graph: &Graph, form: Form) -> Result<Plan, Mistake> {
    if form.batch == 0 {
        return Err(Mistake {
            layer: "input".into(),
            wanted: "a batch of examples".into(),
            got: "none".into(),
        });
    }
    let mut draft = Draft::new(graph, form);
    for (index, node) in graph.nodes().iter().enumerate() {
        if draft.users[index].is_empty() && index > 0 {
            continue;
        }
        draft.check(node)?;
        draft.node(index, node);
    }
    draft.losses()?;
    draft.backward();
    Ok(draft.plan())
}

/// What a user of a node's value is, if it is a loss.
const LOSS: usize = usize::MAX;

struct Draft<'a> {
    graph: &'a Graph,
    form: Form,
    /// Of each node, whose value it hands on: its own, or for a dropout that does nothing another's.
    sources: Vec<usize>,
    /// What reads each node's value, once for each time.
    users: Vec<Vec<usize>>,
    /// Of the last node of layers that are made of several: the first, and what is added.
    ends: HashMap<usize, Chain>,
    /// The nodes before the last one of such a layer.
    absorbed: Vec<bool>,
    /// The slot of each node's value.
    values: Vec<Option<usize>>,
    /// Of each slot of a value: whether what is trained has to do with it, and its gradient.
    trained: Vec<bool>,
    gradients: HashMap<usize, usize>,
    slots: Vec<Place>,
    plan: Plan,
}

/// A BatchNorm and what follows it.
struct Chain {
    norm: usize,
    residual: Option<usize>,
    activation: Activation,
}

impl<'a> Draft<'a> {
    fn new(graph: &'a Graph, form: Form) -> Self {
        let nodes = graph.nodes();
        let mut sources: Vec<usize> = (0..nodes.len()).collect();
        for (index, node) in nodes.iter().enumerate() {
            if matches!(node.op, Op::Dropout { .. }) && !form.dropout {
                sources[index] = sources[node.inputs[0].index()];
            }
        }
        let mut users = vec![Vec::new(); nodes.len()];
        let auxiliary = graph.auxiliary().iter().map(|auxiliary| auxiliary.logits);
        for answer in auxiliary.chain([graph.output()]) {
            users[sources[answer.index()]].push(LOSS);
        }
        for (index, node) in nodes.iter().enumerate().rev() {
            if !users[index].is_empty() {
                for input in &node.inputs {
                    users[sources[input.index()]].push(index);
                }
            }
        }
        let mut draft = Self {
            graph,
            form,
            sources,
            users,
            ends: HashMap::new(),
            absorbed: vec![false; nodes.len()],
            values: vec![None; nodes.len()],
            trained: Vec::new(),
            gradients: HashMap::new(),
            slots: Vec::new(),
            plan: Plan {
                batch: form.batch,
                parameters: Vec::new(),
                buffers: Vec::new(),
                layers: Vec::new(),
                losses: Vec::new(),
                backward: Vec::new(),
                slots: Vec::new(),
                input: 0,
                len: 0,
            },
        };
        for (index, node) in nodes.iter().enumerate() {
            if matches!(node.op, Op::BatchNorm { .. }) {
                draft.chain(index, node);
            }
        }
        draft
    }

    /// Finds what a BatchNorm's layer does besides.
    fn chain(&mut self, norm: usize, node: &Node) {
        let nodes = self.graph.nodes();
        let (mut end, mut residual, mut activation) = (norm, None, Activation::None);
        if let Some(sum) = self.only_user(end)
            && nodes[sum].op == Op::Add
            && !self.absorbed[sum]
            && !self.ends.contains_key(&sum)
        {
            let inputs = nodes[sum].inputs.iter();
            let other = inputs
                .map(|input| self.sources[input.index()])
                .find(|i| *i != end);
            // A step cannot give two gradients of one value.
            let input = self.sources[node.inputs[0].index()];
            if other.is_some_and(|other| other != input) {
                residual = other;
                self.absorbed[end] = true;
                end = sum;
            }
        }
        if let Some(next) = self.only_user(end)
            && let Op::Activation(after @ (Activation::Relu | Activation::Relu6)) = nodes[next].op
        {
            activation = after;
            self.absorbed[end] = true;
            end = next;
        }
        let chain = Chain {
            norm,
            residual,
            activation,
        };
        self.ends.insert(end, chain);
    }

    /// Who reads a node's value, if it is one other node.
    fn only_user(&self, node: usize) -> Option<usize> {
        match self.users[node][..] {
            [user] if user != LOSS => Some(user),
            _ => None,
        }
    }

    fn check(&self, node: &Node) -> Result<(), Mistake> {
        let values = self.form.batch * node.shape.pixels();
        if matches!(node.op, Op::BatchNorm { .. }) && values < 2 {
            return Err(Mistake {
                layer: node.name.clone(),
                wanted: "at least two values of each channel to train on".into(),
                got: format!("a batch of {} of {:?}", self.form.batch, node.shape),
            });
        }
        Ok(())
    }

    fn node(&mut self, index: usize, node: &Node) {
        if self.absorbed[index] || self.sources[index] != index {
            return;
        }
        if let Some(chain) = self.ends.remove(&index) {
            let norm = &self.graph.nodes()[chain.norm];
            let Op::BatchNorm { eps } = norm.op else {
                unreachable!("chains begin with BatchNorm")
            };
            let operation = Operation::BatchNorm {
                eps,
                activation: chain.activation,
            };
            let input = self.sources[norm.inputs[0].index()];
            let inputs: Vec<usize> = [Some(input), chain.residual]
                .into_iter()
                .flatten()
                .collect();
            self.layer(norm, operation, &inputs, index);
            return;
        }
        let operation = match &node.op {
            Op::Input | Op::Ids => {
                let slot = self.slot(node.shape.values(), false);
                self.plan.input = slot;
                self.values[index] = Some(slot);
                return;
            }
            Op::Convolution(convolution) => Operation::Convolution(convolution.clone()),
            Op::Linear => {
                let from = self.graph.shape(node.inputs[0]);
                Operation::Convolution(Convolution {
                    window: Window::new([from.height, from.width]),
                    ..Convolution::dense(node.shape.channels, Stored::Linear)
                })
            }
            Op::BatchNorm { .. } => unreachable!("it is the beginning of a chain"),
            Op::Activation(activation) => Operation::Activation(*activation),
            Op::Pool(pool) => Operation::Pool(pool.clone()),
            Op::AdaptiveMean => Operation::Mean,
            Op::Add => Operation::Add,
            Op::Concat => Operation::Concat,
            Op::Slice { first } => Operation::Slice { first: *first },
            Op::Shuffle { groups } => Operation::Shuffle { groups: *groups },
            Op::Gate => Operation::Gate,
            Op::Dropout { share } => Operation::Dropout {
                share: *share,
                stream: index as u32,
            },
            Op::Embedding(embedding) => Operation::Embedding(embedding.clone()),
            Op::LayerNorm { eps } => Operation::LayerNorm { eps: *eps },
            Op::Attention(attention) => {
                let mut attention = attention.clone();
                if !self.form.dropout {
                    attention.dropout = 0.0;
                }
                Operation::Attention {
                    attention,
                    stream: index as u32,
                }
            }
            Op::Lstm(_) => Operation::Lstm,
            Op::Pick(end) => Operation::Pick(*end),
        };
        let inputs: Vec<usize> = (node.inputs.iter())
            .map(|input| self.sources[input.index()])
            .collect();
        self.layer(node, operation, &inputs, index);
    }

    /// Adds a layer with the weights of `node`, which gives what the node `end` does.
    fn layer(&mut self, node: &Node, operation: Operation, inputs: &[usize], end: usize) {
        let inputs: Vec<Operand> = inputs.iter().map(|input| self.operand(*input)).collect();
        let parameters: Vec<usize> = (self.graph.parameters_of(node).into_iter())
            .enumerate()
            .map(|(i, (name, shape))| {
                let index = push(&mut self.plan.parameters, name, shape);
                self.plan.parameters[index].turned = i == 0 && is_turned(&node.op);
                index
            })
            .collect();
        let buffers: Vec<usize> = (node.buffers().into_iter())
            .map(|(name, shape)| push(&mut self.plan.buffers, name, shape))
            .collect();
        let trained = |input: &Operand| self.trained[input.slot];
        let trained = !parameters.is_empty() || inputs.iter().any(trained);
        let shape = node.shape;
        let slot = self.slot(shape.values(), trained);
        let kept = operation.kept(self.form.batch, shape);
        let kept = (kept > 0).then(|| self.extra(kept));
        self.values[end] = Some(slot);
        self.plan.layers.push(Layer {
            name: node.name.clone(),
            operation,
            inputs,
            output: Operand { slot, shape },
            kept,
            parameters,
            buffers,
        });
    }

    fn operand(&self, node: usize) -> Operand {
        Operand {
            slot: self.values[node].expect("what a layer reads comes before it"),
            shape: self.graph.nodes()[node].shape,
        }
    }

    /// A new slot for a batch of so many values each.
    fn slot(&mut self, values: usize, trained: bool) -> usize {
        let slot = self.extra(values * self.form.batch);
        self.trained[slot] = trained;
        slot
    }

    fn extra(&mut self, len: usize) -> usize {
        self.slots.push(Place { len, over: None });
        self.trained.push(false);
        self.slots.len() - 1
    }

    fn losses(&mut self) -> Result<(), Mistake> {
        let auxiliary = self.graph.auxiliary().iter();
        let auxiliary = auxiliary.map(|auxiliary| (auxiliary.logits, auxiliary.weight));
        for (logits, weight) in [(self.graph.output(), 1.0)].into_iter().chain(auxiliary) {
            let node = &self.graph.nodes()[logits.index()];
            if node.shape.pixels() != 1 {
                return Err(Mistake {
                    layer: node.name.clone(),
                    wanted: "one row of logits to train".into(),
                    got: format!("{:?}", node.shape),
                });
            }
            let logits = self.operand(self.sources[logits.index()]);
            let gradient = self.gradient(logits);
            self.plan.losses.push(Loss {
                name: node.name.clone(),
                logits,
                weight,
                gradient,
            });
        }
        Ok(())
    }

    /// Where a gradient of a value goes that comes next, if anybody needs it.
    fn gradient(&mut self, value: Operand) -> Option<(usize, Onto)> {
        if !self.trained[value.slot] {
            return None;
        }
        Some(match self.gradients.get(&value.slot) {
            Some(slot) => (*slot, Onto::Add),
            None => {
                let slot = self.slot(value.shape.values(), false);
                self.gradients.insert(value.slot, slot);
                (slot, Onto::Write)
            }
        })
    }

    fn backward(&mut self) {
        for index in (0..self.plan.layers.len()).rev() {
            let layer = &self.plan.layers[index];
            let Some(&output) = self.gradients.get(&layer.output.slot) else {
                continue;
            };
            let inputs = layer.inputs.clone();
            let inputs = inputs.into_iter().map(|input| self.gradient(input));
            let inputs: Vec<_> = inputs.collect();
            self.plan.backward.push(Backward {
                layer: index,
                output,
                inputs,
            });
        }
    }

    fn plan(mut self) -> Plan {
        place::share(&self.plan, &mut self.slots);
        let (slots, len) = place::place(&self.plan, &self.slots);
        self.plan.slots = slots;
        self.plan.len = len;
        self.plan
    }
}

/// Whether a state dict has a layer's weight the other way round.
fn is_turned(op: &Op) -> bool {
    matches!(op, Op::Convolution(convolution) if convolution.stored == Stored::Conv1d)
}

/// Adds a tensor at the end of an array of such.
fn push(tensors: &mut Vec<Tensor>, name: String, shape: Vec<usize>) -> usize {
    let end = tensors.last().map_or(0, |tensor| tensor.range.end);
    let start = end.next_multiple_of(UNIT);
    let len: usize = shape.iter().product();
    tensors.push(Tensor {
        name,
        shape,
        range: start..start + len,
        turned: false,
    });
    tensors.len() - 1
}
