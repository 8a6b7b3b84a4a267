//! What a network is, as plain data: layers with their shapes, and weights by the names that state dicts give them.
//!
//! A [`Graph`] knows no device and holds no numbers. Inference fuses it ([`crate::plan`]); training can differentiate it,
//! and therefore BatchNorm, activations and dropout are nodes of their own here. Shapes are those of one image: `[channels,
//! height, width]`, and `[features, 1, 1]` once pixels are gone. A sequence is an image of one line: its pixels are tokens or
//! steps, its channels their features.

mod builder;
mod cost;
mod mistake;
#[cfg(test)]
pub(crate) mod reference;
mod sequences;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;

pub use crate::activation::Activation;
pub use builder::Builder;
pub use mistake::Mistake;
pub use sequences::{Attention, Embedding, End, Lstm, Row};
pub(crate) use window::field;
pub use window::{Pair, Window};

/// A network: nodes in an order in which each comes after what it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    output: Value,
    auxiliary: Vec<Auxiliary>,
}

/// A row of logits that is only trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auxiliary {
    /// What gives it.
    pub logits: Value,
    /// What its loss counts beside the answer's.
    pub weight: f64,
}

/// What a node gives, by the node's place in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

impl Value {
    /// The node's place in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it has weights, what its state dict puts before `.weight`; otherwise what it does and after which of these.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// What it takes.
    pub inputs: Vec<Value>,
    /// What it gives.
    pub shape: Shape,
}

/// The shape of an image.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Values of a pixel.
    pub channels: usize,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
}

impl Shape {
    /// Pixels of an image.
    pub fn pixels(self) -> usize {
        self.height * self.width
    }

    /// Values of an image.
    pub fn values(self) -> usize {
        self.channels * self.pixels()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}]", self.channels, self.height, self.width)
    }
}

/// What a layer does.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The images come in.
    Input,
    /// Token ids come in, one a pixel.
    Ids,
    /// A convolution, with a `weight` as [`Convolution::stored`] says and maybe a `bias`.
    Convolution(Convolution),
    /// BatchNorm with `weight`, `bias`, `running_mean` and `running_var`.
    BatchNorm {
        /// What is added to the variance.
        eps: f64,
    },
    /// A function of each value.
    Activation(Activation),
    /// A maximum or an average under a moving window.
    Pool(Pool),
    /// Means over as many fields of pixels, as even as they can be, as the node's shape has pixels.
    AdaptiveMean,
    /// A matrix, with a `weight` `[outputs, inputs]` over all of an image's values, channel by channel, and a `bias`.
    Linear,
    /// The sum of two images.
    Add,
    /// The channels of all inputs, one after the other.
    Concat,
    /// Some of the channels.
    Slice {
        /// The first of them.
        first: usize,
    },
    /// The channels, cut into so many groups, with each group's first before each group's second.
    Shuffle {
        /// The groups.
        groups: usize,
    },
    /// The first input's channels, each times the second's one value for it (squeeze-excite).
    Gate,
    /// In training, zeros at random; nothing else.
    Dropout {
        /// The share of values that become zeros.
        share: f64,
    },
    /// A row of a table for each token, with a `weight` `[rows, features]`.
    Embedding(Embedding),
    /// LayerNorm over a pixel's channels, with `weight` and `bias`.
    LayerNorm {
        /// What is added to the variance.
        eps: f64,
    },
    /// Attention among a sequence's tokens.
    Attention(Attention),
    /// A layer of an LSTM, in one direction, from a state of zeros; its tensors have names of their own.
    Lstm(Lstm),
    /// One of the tokens.
    Pick(End),
}

/// How images are convolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// The channels that it gives.
    pub outputs: usize,
    /// How it moves over an image.
    pub window: Window,
    /// Parts of the channels that do not see each other.
    pub groups: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// How a state dict has its weight.
    pub stored: Stored,
}

/// The shape in which a state dict has a convolution's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// `[outputs, inputs / groups, down, across]`.
    Kernel,
    /// `[outputs, inputs]`, as torch's `Linear` has it.
    Linear,
    /// `[inputs, outputs]`, as transformers' `Conv1D` has it.
    Conv1d,
}

impl Convolution {
    /// Without a bias, padding or groups, a pixel at a time.
    pub fn new(outputs: usize, kernel: impl Into<Pair>) -> Self {
        Self {
            outputs,
            window: Window::new(kernel),
            groups: 1,
            bias: false,
            stored: Stored::Kernel,
        }
    }

    /// A linear layer for each pixel, with a bias.
    pub fn dense(outputs: usize, stored: Stored) -> Self {
        Self {
            stored,
            ..Self::new(outputs, 1).biased()
        }
    }

    /// Pixels from one output to the next.
    pub fn stride(mut self, stride: impl Into<Pair>) -> Self {
        self.window = self.window.stride(stride);
        self
    }

    /// Zeros on each side.
    pub fn padding(mut self, padding: impl Into<Pair>) -> Self {
        self.window = self.window.padding(padding);
        self
    }

    /// So many groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// With a bias.
    pub fn biased(mut self) -> Self {
        self.bias = true;
        self
    }

    /// The shape of its weight in a state dict.
    fn weight(&self, input: Shape) -> Vec<usize> {
        let [down, across] = self.window.kernel;
        let inputs = input.channels / self.groups;
        match self.stored {
            Stored::Kernel => vec![self.outputs, inputs, down, across],
            Stored::Linear => vec![self.outputs, inputs],
            Stored::Conv1d => vec![inputs, self.outputs],
        }
    }
}

/// How a pool moves over an image, and what it makes of what is under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Its window.
    pub window: Window,
    /// What it takes of that.
    pub reduction: Reduction,
    /// Whether windows that reach over the end, padding included, count.
    pub ceil: bool,
}

/// What becomes of the values under a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// The largest.
    Max,
    /// Their mean.
    Mean {
        /// Whether padding counts as values that are zero.
        count_padding: bool,
    },
}

impl Pool {
    /// The largest value of each window.
    pub fn max(kernel: impl Into<Pair>) -> Self {
        Self {
            window: Window::new(kernel),
            reduction: Reduction::Max,
            ceil: false,
        }
    }

    /// The mean of each window, padding included.
    pub fn mean(kernel: impl Into<Pair>) -> Self {
        Self {
            reduction: Reduction::Mean {
                count_padding: true,
            },
            ..Self::max(kernel)
        }
    }

    /// Pixels from one output to the next.
    pub fn stride(mut self, stride: impl Into<Pair>) -> Self {
        self.window = self.window.stride(stride);
        self
    }

    /// Pixels that are nobody's on each side.
    pub fn padding(mut self, padding: impl Into<Pair>) -> Self {
        self.window = self.window.padding(padding);
        self
    }

    /// With the windows that reach over the end.
    pub fn ceil(mut self) -> Self {
        self.ceil = true;
        self
    }
}

impl Graph {
    /// Its layers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What it answers.
    pub fn output(&self) -> Value {
        self.output
    }

    /// What it answers besides while it is trained.
    pub fn auxiliary(&self) -> &[Auxiliary] {
        &self.auxiliary
    }

    /// What a node gives.
    pub fn shape(&self, value: Value) -> Shape {
        self.nodes[value.0].shape
    }

    /// The tensors that are trained, with the shapes in which a state dict has them.
    pub fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        self.nodes.iter().flat_map(|node| self.parameters_of(node))
    }

    /// A layer's, a weight before a bias.
    pub(crate) fn parameters_of(&self, node: &Node) -> Vec<(String, Vec<usize>)> {
        let input = node.inputs.first().map(|input| self.shape(*input));
        input.map_or(Vec::new(), |input| node.parameters(input))
    }

    /// The numbers in all of [`Self::parameters`].
    pub fn parameter_count(&self) -> usize {
        let numbers = |(_, shape): (String, Vec<usize>)| shape.iter().product::<usize>();
        self.parameters().map(numbers).sum()
    }
}

impl Node {
    /// Its tensors, of which those that are called `weight` and `bias` come in that order.
    fn parameters(&self, input: Shape) -> Vec<(String, Vec<usize>)> {
        let outputs = self.shape.channels;
        let named = |part: &str, shape| (format!("{}.{part}", self.name), shape);
        let with_bias = |weight| vec![named("weight", weight), named("bias", vec![outputs])];
        match &self.op {
            Op::Convolution(convolution) => {
                let (weight, bias) = (convolution.weight(input), vec![outputs]);
                let bias = convolution.bias.then(|| named("bias", bias));
                [named("weight", weight)].into_iter().chain(bias).collect()
            }
            Op::BatchNorm { .. } | Op::LayerNorm { .. } => with_bias(vec![outputs]),
            Op::Linear => with_bias(vec![outputs, input.values()]),
            Op::Embedding(Embedding { rows, .. }) => vec![named("weight", vec![*rows, outputs])],
            Op::Lstm(lstm) => lstm.parameters(input.channels, outputs),
            _ => Vec::new(),
        }
    }

    /// What it keeps of all batches that it has been trained on.
    pub(crate) fn buffers(&self) -> Vec<(String, Vec<usize>)> {
        let named = |part| (format!("{}.{part}", self.name), vec![self.shape.channels]);
        match self.op {
            Op::BatchNorm { .. } => ["running_mean", "running_var"].map(named).into(),
            _ => Vec::new(),
        }
    }
}
