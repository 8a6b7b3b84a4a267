//! What one step can do of a network.

use std::sync::Arc;

use super::{Layer, Norm, Operation, Scaling};
use crate::graph::{Activation, Convolution, Graph, Mistake, Node, Op, Shape, Value, Window};

/// Steps between tensors, of which nobody has said yet where they are.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) steps: Vec<DraftStep>,
    pub(super) tensors: Vec<Tensor>,
    pub(super) output: Channels,
}

#[derive(Debug)]
pub(super) struct DraftStep {
    pub(super) name: String,
    pub(super) operation: Operation<Channels>,
    /// The tensor that it makes.
    pub(super) output: usize,
}

/// What a step makes; the first one is the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) shape: Shape,
    /// Whether it may be written between the channels of others.
    pub(super) movable: bool,
}

/// An image's channels, in any order and of any tensors.
pub(super) type Channels = Arc<[Channel]>;

/// A tensor's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Channel {
    pub(super) tensor: usize,
    pub(super) index: usize,
}

/// `expands` says whether a step may expand and filter at once.
///
/// # Errors
/// There is a layer that is not one of images.
pub(super) fn fuse(graph: &Graph, expands: bool) -> Result<Draft, Mistake> {
    let users = users(graph);
    let mut fuser = Fuser {
        graph,
        expands,
        known: vec![None; graph.nodes().len()],
        absorbed: vec![false; graph.nodes().len()],
        draft: Draft {
            steps: Vec::new(),
            tensors: Vec::new(),
            output: Arc::default(),
        },
        users,
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        // The input is there whether it is used or not.
        if index == 0 || !(fuser.users[index].is_empty() || fuser.absorbed[index]) {
            fuser.node(index, node)?;
        }
    }
    fuser.draft.output = fuser.channels(graph.output());
    Ok(fuser.draft)
}

/// What takes each node's result, once for each time; the answer is taken by a node that does not exist.
fn users(graph: &Graph) -> Vec<Vec<usize>> {
    let nodes = graph.nodes();
    let mut users = vec![Vec::new(); nodes.len()];
    users[graph.output().index()].push(nodes.len());
    for (index, node) in nodes.iter().enumerate().rev() {
        if !users[index].is_empty() {
            for input in &node.inputs {
                users[input.index()].push(index);
            }
        }
    }
    users
}

/// What is known of a node's result.
#[derive(Clone, Debug)]
enum Known {
    Channels(Channels),
    /// It has not been computed: a convolution can do so as it reads these channels.
    Scaled(Channels, Scaling),
}

struct Fuser<'a> {
    graph: &'a Graph,
    expands: bool,
    users: Vec<Vec<usize>>,
    known: Vec<Option<Known>>,
    /// Nodes that are part of a step already.
    absorbed: Vec<bool>,
    draft: Draft,
}

/// What follows a layer, as far as its step can do it.
struct Chain {
    norm: Option<Norm>,
    activation: Activation,
    residual: Option<Channels>,
    after: Activation,
    /// The last node of them.
    end: usize,
}

impl Fuser<'_> {
    fn node(&mut self, index: usize, node: &Node) -> Result<(), Mistake> {
        match node.op.of_sequences() {
            None => self.image_node(index, node),
            Some(what) => {
                return Err(Mistake {
                    layer: node.name.clone(),
                    wanted: "a layer of images".into(),
                    got: what.into(),
                });
            }
        }
        Ok(())
    }

    fn image_node(&mut self, index: usize, node: &Node) {
        let known = match &node.op {
            Op::Input => {
                let input = self.tensor(node.shape, false);
                Known::Channels(input)
            }
            Op::Convolution(convolution) => return self.convolution(index, node, convolution),
            Op::Linear => {
                let input = self.channels(node.inputs[0]);
                let chain = self.chain(index, false);
                let layer = (node.name.clone(), chain.activation);
                let operation = Operation::Linear { input, layer };
                return self.step(index, operation, (chain.end, false));
            }
            Op::Add => {
                let inputs = [0, 1].map(|i| self.channels(node.inputs[i]));
                let chain = self.chain(index, false);
                let activation = chain.activation;
                return self.step(
                    index,
                    Operation::Add { inputs, activation },
                    (chain.end, true),
                );
            }
            Op::Gate => {
                let [input, gates] = [0, 1].map(|i| self.channels(node.inputs[i]));
                return self.step(index, Operation::Gate { input, gates }, (index, true));
            }
            Op::Pool(pool) => {
                let (input, pool) = (self.channels(node.inputs[0]), pool.clone());
                return self.step(index, Operation::Pool { input, pool }, (index, true));
            }
            Op::AdaptiveMean if node.shape != self.graph.shape(node.inputs[0]) => {
                let input = self.channels(node.inputs[0]);
                return self.step(index, Operation::Mean { input }, (index, true));
            }
            Op::AdaptiveMean | Op::Dropout { .. } => self.known(node.inputs[0]),
            Op::BatchNorm { eps } => {
                let scaling = Scaling {
                    norm: Some(norm(node, *eps)),
                    activation: Activation::None,
                };
                Known::Scaled(self.channels(node.inputs[0]), scaling)
            }
            Op::Activation(activation) => self.activated(node.inputs[0], *activation),
            Op::Concat => {
                let parts: Vec<_> = node.inputs.iter().map(|x| self.channels(*x)).collect();
                Known::Channels(parts.iter().flat_map(|part| part.iter().copied()).collect())
            }
            Op::Slice { first } => {
                let channels = self.channels(node.inputs[0]);
                Known::Channels(channels[*first..first + node.shape.channels].into())
            }
            Op::Shuffle { groups } => {
                let channels = self.channels(node.inputs[0]);
                let each = channels.len() / groups;
                let order = (0..channels.len()).map(|i| i % groups * each + i / groups);
                Known::Channels(order.map(|i| channels[i]).collect())
            }
            Op::Ids
            | Op::Embedding(_)
            | Op::LayerNorm { .. }
            | Op::Attention(_)
            | Op::Lstm(_)
            | Op::Pick(_) => unreachable!("`node` refused it"),
        };
        self.known[index] = Some(known);
    }

    fn convolution(&mut self, index: usize, node: &Node, convolution: &Convolution) {
        let known = self.known(node.inputs[0]);
        let (input, before) = match known {
            Known::Scaled(channels, scaling) if convolution.groups == 1 => {
                (channels, Some(scaling))
            }
            _ => (self.channels(node.inputs[0]), None),
        };
        let chain = self.chain(index, true);
        let filters = self.filters(node, convolution);
        let layer = layer(node, convolution, &chain);
        // The filters after an expansion, if nobody else sees what is between them.
        if self.expands
            && before.is_none()
            && chain.residual.is_none()
            && convolution.groups == 1
            && convolution.window.is_pointwise()
            && let Some(user) = self.only_user(chain.end)
            && let user_node = &self.graph.nodes()[user]
            && let Op::Convolution(other) = &user_node.op
            && self.filters(user_node, other)
        {
            self.absorbed[user] = true;
            let chain = self.simple_chain(user);
            let operation = Operation::Depthwise {
                input,
                expand: Some(layer),
                layer: self::layer(user_node, other, &chain),
            };
            return self.step(index, operation, (chain.end, false));
        }
        if filters && chain.residual.is_none() {
            let operation = Operation::Depthwise {
                input,
                expand: None,
                layer,
            };
            return self.step(index, operation, (chain.end, false));
        }
        let operation = Operation::Convolution {
            input,
            before,
            layer,
            residual: chain.residual,
            after: chain.after,
        };
        self.step(index, operation, (chain.end, true));
    }

    /// Whether a convolution is a filter for each channel, of a kind that there are kernels for everywhere.
    fn filters(&self, node: &Node, convolution: &Convolution) -> bool {
        let inputs = self.graph.shape(node.inputs[0]).channels;
        let Window {
            kernel,
            stride,
            padding,
        } = convolution.window;
        convolution.groups == inputs
            && convolution.outputs == inputs
            && inputs > 1
            && matches!(kernel, [3, 3] | [5, 5])
            && matches!(stride, [1, 1] | [2, 2])
            && padding[0] == padding[1]
    }

    /// The one node that takes a result, if there is just one.
    fn only_user(&self, index: usize) -> Option<usize> {
        match self.users[index][..] {
            [user] if user < self.graph.nodes().len() => Some(user),
            _ => None,
        }
    }

    /// What can be done right after a layer without a sum: a norm and an activation.
    fn simple_chain(&mut self, from: usize) -> Chain {
        self.follow(from, true, false)
    }

    /// What can be done right after a layer; a norm and a sum only if it is a convolution.
    fn chain(&mut self, from: usize, convolution: bool) -> Chain {
        self.follow(from, convolution, convolution)
    }

    fn follow(&mut self, from: usize, norms: bool, sums: bool) -> Chain {
        let graph = self.graph;
        let mut chain = Chain {
            norm: None,
            activation: Activation::None,
            residual: None,
            after: Activation::None,
            end: from,
        };
        while let Some(user) = self.only_user(chain.end) {
            let node = &graph.nodes()[user];
            let bare = chain.activation == Activation::None && chain.residual.is_none();
            match &node.op {
                Op::Dropout { .. } => (),
                Op::BatchNorm { eps } if norms && bare && chain.norm.is_none() => {
                    chain.norm = Some(norm(node, *eps));
                }
                Op::Activation(activation) if bare => chain.activation = *activation,
                Op::Activation(activation)
                    if chain.residual.is_some() && chain.after == Activation::None =>
                {
                    chain.after = *activation;
                }
                Op::Add if sums && chain.residual.is_none() => {
                    let other = node.inputs.iter().find(|x| x.index() != chain.end);
                    // What is computed later takes this one as what it adds.
                    match other {
                        Some(other) if self.known[other.index()].is_some() => {
                            chain.residual = Some(self.channels(*other));
                        }
                        _ => break,
                    }
                }
                _ => break,
            }
            self.absorbed[user] = true;
            chain.end = user;
        }
        chain
    }

    /// An activation that no layer has taken.
    fn activated(&mut self, x: Value, activation: Activation) -> Known {
        let (channels, norm) = match self.known(x) {
            Known::Scaled(channels, scaling) if scaling.activation == Activation::None => {
                (channels, scaling.norm)
            }
            _ => (self.channels(x), None),
        };
        Known::Scaled(channels, Scaling { norm, activation })
    }

    fn known(&self, x: Value) -> Known {
        let known = self.known[x.index()].clone();
        known.expect("nodes come after what they take")
    }

    /// A result's channels, computed if they have not been.
    fn channels(&mut self, x: Value) -> Channels {
        match self.known(x) {
            Known::Channels(channels) => channels,
            Known::Scaled(input, scaling) => {
                self.step(
                    x.index(),
                    Operation::Scale { input, scaling },
                    (x.index(), true),
                );
                match self.known(x) {
                    Known::Channels(channels) => channels,
                    Known::Scaled(..) => unreachable!("it has just been computed"),
                }
            }
        }
    }

    fn tensor(&mut self, shape: Shape, movable: bool) -> Channels {
        let tensor = self.draft.tensors.len();
        self.draft.tensors.push(Tensor { shape, movable });
        (0..shape.channels)
            .map(|index| Channel { tensor, index })
            .collect()
    }

    /// A step that begins with one node and gives the result of another.
    fn step(
        &mut self,
        first: usize,
        operation: Operation<Channels>,
        (end, movable): (usize, bool),
    ) {
        let nodes = self.graph.nodes();
        let output = self.draft.tensors.len();
        let channels = self.tensor(nodes[end].shape, movable);
        self.draft.steps.push(DraftStep {
            name: nodes[first].name.clone(),
            operation,
            output,
        });
        self.known[end] = Some(Known::Channels(channels));
    }
}

fn norm(node: &Node, eps: f64) -> Norm {
    Norm {
        name: node.name.clone(),
        eps,
    }
}

fn layer(node: &Node, convolution: &Convolution, chain: &Chain) -> Layer {
    Layer {
        name: node.name.clone(),
        convolution: convolution.clone(),
        norm: chain.norm.clone(),
        activation: chain.activation,
    }
}
