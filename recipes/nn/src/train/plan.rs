//! A training step as plain data: what runs forward, the losses, what runs backward, and the memory of all of it.
//!
//! A value is one slice `[batch, height, width, channels]`, contiguous, and so is its gradient. Parameters stand one after the
//! other in one array, in the layouts of their state dict; gradients and what an optimizer keeps are arrays of the same kind.

use std::ops::Range;

pub use crate::ops::Onto;
use crate::{
    graph::{Activation, Attention, Convolution, Embedding, End, Pool, Reduction, Row, Shape},
    plan::memory::UNIT,
};

/// The share of a batch in running statistics: PyTorch's usual one.
pub(super) const MOMENTUM: f32 = 0.1;

/// A training step of a network for batches of one size. It knows no device.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Examples of a step.
    pub batch: usize,
    /// What is trained.
    pub parameters: Vec<Tensor>,
    /// What is carried along: running statistics.
    pub buffers: Vec<Tensor>,
    /// What runs forward, in this order.
    pub layers: Vec<Layer>,
    /// What a step is to make smaller, once all layers have run.
    pub losses: Vec<Loss>,
    /// What then runs backward, in this order.
    pub backward: Vec<Backward>,
    /// What all of these read and write.
    pub slots: Vec<Slot>,
    /// The slot of the network's input.
    pub input: usize,
    /// Values of the memory that slots lie in.
    pub len: usize,
}

/// A tensor of a state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name there.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// Where it is in the array of all of its kind. It begins on a cache line.
    pub range: Range<usize>,
    /// Whether it is a matrix that lies there with rows and columns exchanged.
    pub turned: bool,
}

/// Memory for a value or a gradient. Two of them lie at one place if they are never needed at the same time, or if one is
/// made of the other in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Values.
    pub len: usize,
    /// Where they begin in the plan's memory, on a cache line.
    pub offset: usize,
    /// The slot that they are written over: a function of its values, one by one, or these themselves.
    pub over: Option<usize>,
}

/// What a layer reads or gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where it is.
    pub slot: usize,
    /// Of one example.
    pub shape: Shape,
}

/// Something that runs forward, and maybe backward.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The node that it begins with.
    pub name: String,
    /// What it does.
    pub operation: Operation,
    /// What it reads.
    pub inputs: Vec<Operand>,
    /// What it gives.
    pub output: Operand,
    /// The slot of what it leaves for its way back besides.
    pub kept: Option<usize>,
    /// Of its tensors, a weight before a bias, the place in [`Plan::parameters`].
    pub parameters: Vec<usize>,
    /// Of its running statistics, the place in [`Plan::buffers`].
    pub buffers: Vec<usize>,
}

/// What a layer does.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// A convolution, or a linear layer as one whose window is the whole image.
    Convolution(Convolution),
    /// BatchNorm by the batch's statistics; its second input, if there is one, is added, and then comes the activation.
    BatchNorm {
        /// What is added to the variance.
        eps: f64,
        /// What follows: ReLU, ReLU6 or nothing.
        activation: Activation,
    },
    /// A function of each value.
    Activation(Activation),
    /// A pool.
    Pool(Pool),
    /// Means over fields of pixels.
    Mean,
    /// The sum of two.
    Add,
    /// The channels of all inputs, one after the other.
    Concat,
    /// Some of the channels.
    Slice {
        /// The first of them.
        first: usize,
    },
    /// The channels of so many groups in turns.
    Shuffle {
        /// The groups.
        groups: usize,
    },
    /// The first input's channels, each times the second's one value for it.
    Gate,
    /// Zeros at random.
    Dropout {
        /// The share of values that become zeros.
        share: f64,
        /// What tells it from others.
        stream: u32,
    },
    /// A row of a table for each token, whose ids are the input's values.
    Embedding(Embedding),
    /// LayerNorm over a pixel's channels.
    LayerNorm {
        /// What is added to the variance.
        eps: f64,
    },
    /// Attention, whose dropout is none where there is to be none.
    Attention {
        /// What it is like.
        attention: Attention,
        /// What tells its dropout from others.
        stream: u32,
    },
    /// A layer of an LSTM.
    Lstm,
    /// One token.
    Pick(End),
}

/// Softmax cross-entropy, the mean over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// The node of its logits.
    pub name: String,
    /// They.
    pub logits: Operand,
    /// Its part in the sum of all losses.
    pub weight: f64,
    /// Where their gradient goes, if anything is trained that they depend on.
    pub gradient: Option<(usize, Onto)>,
}

/// A layer's way back: gradients of its parameters, which are always written, and of what it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backward {
    /// Its place in [`Plan::layers`].
    pub layer: usize,
    /// The slot of the gradient of what it gave.
    pub output: usize,
    /// The slots of the gradients of what it read, where somebody needs them.
    pub inputs: Vec<Option<(usize, Onto)>>,
}

impl Operation {
    /// Whether the way back reads the layer's input of this place.
    pub(super) fn reads_input(&self, input: usize) -> bool {
        match self {
            Self::Convolution(_)
            | Self::Gate
            | Self::Embedding(_)
            | Self::LayerNorm { .. }
            | Self::Attention { .. }
            | Self::Lstm => true,
            Self::BatchNorm { .. } => input == 0,
            Self::Activation(activation) => !is_known_by_its_output(*activation),
            Self::Pool(pool) => pool.reduction == Reduction::Max,
            Self::Mean
            | Self::Add
            | Self::Concat
            | Self::Slice { .. }
            | Self::Shuffle { .. }
            | Self::Dropout { .. }
            | Self::Pick(_) => false,
        }
    }

    /// Whether the way back reads what the layer gave.
    pub(super) fn reads_output(&self) -> bool {
        match self {
            Self::BatchNorm { activation, .. } => *activation != Activation::None,
            Self::Activation(activation) => is_known_by_its_output(*activation),
            Self::Pool(pool) => pool.reduction == Reduction::Max,
            Self::Attention { .. } | Self::Lstm => true,
            _ => false,
        }
    }

    /// Values that the way back wants besides, for so many examples.
    pub(super) fn kept(&self, examples: usize, output: Shape) -> usize {
        let pixels = examples * output.pixels();
        match self {
            // Its mean and its deviation.
            Self::LayerNorm { .. } => 2 * pixels,
            // The logarithm of each sum.
            Self::Attention { attention, .. } => attention.heads * pixels,
            // Four gates and a cell of each unit.
            Self::Lstm => 5 * output.channels * pixels,
            _ => 0,
        }
    }

    /// Whether the result may be written over the first input, value by value, and the gradient over the result's.
    pub(super) fn is_elementwise(&self) -> bool {
        matches!(self, Self::Activation(_) | Self::Dropout { .. })
    }
}

/// Whether the slope follows from the result.
fn is_known_by_its_output(activation: Activation) -> bool {
    match activation {
        Activation::None
        | Activation::Relu
        | Activation::Relu6
        | Activation::Sigmoid
        | Activation::Tanh => true,
        Activation::Silu | Activation::Gelu | Activation::GeluTanh => false,
    }
}

/// What a step reads and writes, by slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Read.
    pub reads: Vec<usize>,
    /// Written for the first time.
    pub writes: Vec<usize>,
    /// Read, and written in place.
    pub adds: Vec<usize>,
}

impl Access {
    fn gradient(&mut self, gradient: Option<(usize, Onto)>) {
        match gradient {
            // What the same step has written before.
            Some((slot, Onto::Add)) if self.writes.contains(&slot) || self.adds.contains(&slot) => {
            }
            Some((slot, Onto::Add)) => self.adds.push(slot),
            Some((slot, Onto::Write)) => self.writes.push(slot),
            None => (),
        }
    }
}

impl Plan {
    /// What each step reads and writes: the layers, then the losses, then the ways back.
    pub fn accesses(&self) -> Vec<Access> {
        let layers = self.layers.iter().map(|layer| Access {
            reads: layer.inputs.iter().map(|input| input.slot).collect(),
            writes: [Some(layer.output.slot), layer.kept]
                .into_iter()
                .flatten()
                .collect(),
            adds: Vec::new(),
        });
        let losses = self.losses.iter().map(|loss| {
            let mut access = Access {
                reads: vec![loss.logits.slot],
                ..Access::default()
            };
            access.gradient(loss.gradient);
            access
        });
        let backward = self.backward.iter().map(|backward| {
            let layer = &self.layers[backward.layer];
            let mut access = Access {
                reads: vec![backward.output],
                ..Access::default()
            };
            let inputs = layer.inputs.iter().enumerate();
            let read = inputs.filter(|(i, _)| layer.operation.reads_input(*i));
            access.reads.extend(read.map(|(_, input)| input.slot));
            if layer.operation.reads_output() {
                access.reads.push(layer.output.slot);
            }
            access.reads.extend(layer.kept);
            for gradient in &backward.inputs {
                access.gradient(*gradient);
            }
            access
        });
        layers.chain(losses).chain(backward).collect()
    }

    /// The network's numbers.
    pub fn parameter_count(&self) -> usize {
        self.parameters
            .iter()
            .map(|tensor| tensor.range.len())
            .sum()
    }

    /// What ids have to be below, if the input is ids: the fewest rows of a table that they are looked up in.
    pub(super) fn vocabulary(&self) -> Option<usize> {
        let rows = |layer: &Layer| match &layer.operation {
            Operation::Embedding(embedding) if embedding.by == Row::Id => Some(embedding.rows),
            _ => None,
        };
        self.layers.iter().filter_map(rows).min()
    }

    /// Of an array of all parameters, how long it is.
    pub(super) fn parameters_len(&self) -> usize {
        end(&self.parameters)
    }

    /// Of an array of all buffers, how long it is.
    pub(super) fn buffers_len(&self) -> usize {
        end(&self.buffers)
    }
}

fn end(tensors: &[Tensor]) -> usize {
    let end = tensors.last().map_or(0, |tensor| tensor.range.end);
    end.next_multiple_of(UNIT)
}
