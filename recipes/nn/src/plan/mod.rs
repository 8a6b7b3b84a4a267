//! How a network is run: a [`Graph`] fused into steps, each of which goes over memory once, and the memory itself.
//!
//! All of it is pure and knows no device. `fuse` finds what one step can do: a convolution with the BatchNorm after it, or
//! the one before it, activations and a sum; an expansion with the filters after it. Concatenations, slices and shuffles
//! are no steps but lists of channels. `place` makes memory of these: what is concatenated is written side by side in
//! the first place, and channels in another order than their layer's weights mean that the weights are reordered. Only
//! channels that still lie apart are gathered. `memory` lets what is not needed at the same time share memory.

mod fuse;
pub(crate) mod memory;
mod place;
#[cfg(test)]
mod tests;

use crate::graph::{Activation, Convolution, Graph, Mistake, Pool};

/// The steps of a network, and the memory that they work in.
///
/// An image lies in a buffer pixel by pixel, line by line, the channels of a pixel together. A batch has its images one
/// after the other, and so many times the memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In the order in which they run.
    pub steps: Vec<Step>,
    /// What steps read and write; the first one is the network's input.
    pub buffers: Vec<Buffer>,
    /// The network's answer.
    pub output: View,
    /// Values of the memory of an image.
    pub len: usize,
}

/// Something that an image goes through in one pass over memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The layer that it begins with.
    pub name: String,
    /// What it does.
    pub operation: Operation,
    /// Where its result goes.
    pub output: View,
}

/// The memory of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Pixels, `[down, across]`.
    pub size: [usize; 2],
    /// Values of a pixel.
    pub channels: usize,
    /// Where it begins in the plan's memory.
    pub offset: usize,
}

impl Buffer {
    /// Pixels of an image.
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Values of an image.
    pub fn len(&self) -> usize {
        self.pixels() * self.channels
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Some channels of a buffer, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which buffer.
    pub buffer: usize,
    /// The first channel.
    pub first: usize,
    /// How many there are.
    pub channels: usize,
}

/// What a step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Where it is.
    pub view: View,
    /// Which of the layer's channels each of these is, if they are not in its order.
    pub order: Option<Vec<usize>>,
}

/// What a step does, with what it reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation<T = Operand> {
    /// `after(layer(before(input)) + residual)`.
    Convolution {
        /// What is convolved.
        input: T,
        /// What is done to it first.
        before: Option<Scaling>,
        /// The convolution.
        layer: Layer,
        /// What is added.
        residual: Option<T>,
        /// What follows the sum.
        after: Activation,
    },
    /// A filter of 3x3 or 5x5 for each channel, maybe of a 1x1 convolution.
    Depthwise {
        /// What is filtered, or expanded first.
        input: T,
        /// The 1x1 convolution.
        expand: Option<Layer>,
        /// The filters.
        layer: Layer,
    },
    /// A linear layer over all of an image's values.
    Linear {
        /// Its input.
        input: T,
        /// Its name, and what follows it.
        layer: (String, Activation),
    },
    /// A pool.
    Pool {
        /// Its input.
        input: T,
        /// Its window.
        pool: Pool,
    },
    /// Means over fields of pixels.
    Mean {
        /// Their input.
        input: T,
    },
    /// BatchNorm or an activation that no other step could take.
    Scale {
        /// Its input.
        input: T,
        /// What is done to it.
        scaling: Scaling,
    },
    /// The sum of two images.
    Add {
        /// They.
        inputs: [T; 2],
        /// What follows it.
        activation: Activation,
    },
    /// Channels times their gates.
    Gate {
        /// The image.
        input: T,
        /// A value for each of its channels.
        gates: T,
    },
    /// Channels that lie apart, side by side.
    Gather {
        /// From where, and to which channel of the output.
        parts: Vec<(View, usize)>,
    },
}

/// A convolution with what can be folded into its weights, and the activation after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The name of its weights.
    pub name: String,
    /// Its shape.
    pub convolution: Convolution,
    /// The BatchNorm after it.
    pub norm: Option<Norm>,
    /// What follows.
    pub activation: Activation,
}

/// A factor and a term for each channel, and a function after them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// Where factors and terms are from, if there are such.
    pub norm: Option<Norm>,
    /// The function.
    pub activation: Activation,
}

/// A BatchNorm with fixed statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// The name of its weights.
    pub name: String,
    /// What is added to the variance.
    pub eps: f64,
}

/// What a device wants of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The values of which each view of a buffer begins at a multiple. Channels up to the next one are nobody's.
    pub vector: usize,
    /// Whether a step expands and filters at once.
    pub expands: bool,
}

impl Form {
    /// Without gaps, and with as much as possible in one step.
    pub const CPU: Self = Self {
        vector: 1,
        expands: true,
    };
}

impl Plan {
    /// The plan of a network.
    ///
    /// # Errors
    /// It has a layer that is not one of images.
    pub fn new(graph: &Graph, form: Form) -> Result<Self, Mistake> {
        let draft = fuse::fuse(graph, form.expands)?;
        Ok(place::place(draft, form.vector))
    }
}

/// What a step asks of what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    /// The channels in the layer's own order.
    exact: bool,
    /// A buffer of nothing else.
    whole: bool,
}

const ANY: Need = Need {
    exact: false,
    whole: false,
};
const EXACT: Need = Need {
    exact: true,
    whole: false,
};
const WHOLE: Need = Need {
    exact: false,
    whole: true,
};

impl<T> Operation<T> {
    /// The same with other operands.
    fn map<U>(self, mut to: impl FnMut(T, Need) -> U) -> Operation<U> {
        match self {
            Self::Convolution {
                input,
                before,
                layer,
                residual,
                after,
            } => Operation::Convolution {
                input: to(
                    input,
                    if layer.convolution.groups == 1 {
                        ANY
                    } else {
                        EXACT
                    },
                ),
                before,
                layer,
                residual: residual.map(|residual| to(residual, EXACT)),
                after,
            },
            Self::Depthwise {
                input,
                expand,
                layer,
            } => Operation::Depthwise {
                input: to(input, WHOLE),
                expand,
                layer,
            },
            Self::Linear { input, layer } => Operation::Linear {
                input: to(input, WHOLE),
                layer,
            },
            Self::Pool { input, pool } => Operation::Pool {
                input: to(input, ANY),
                pool,
            },
            Self::Mean { input } => Operation::Mean {
                input: to(input, ANY),
            },
            Self::Scale { input, scaling } => Operation::Scale {
                input: to(input, ANY),
                scaling,
            },
            Self::Add { inputs, activation } => Operation::Add {
                inputs: inputs.map(|input| to(input, EXACT)),
                activation,
            },
            Self::Gate { input, gates } => Operation::Gate {
                input: to(input, EXACT),
                gates: to(gates, EXACT),
            },
            Self::Gather { parts } => Operation::Gather { parts },
        }
    }

    /// Whether its result has the order of what it reads.
    fn keeps_order(&self) -> bool {
        matches!(
            self,
            Self::Depthwise { expand: None, .. }
                | Self::Pool { .. }
                | Self::Mean { .. }
                | Self::Scale { .. }
        )
    }
}

impl Operation {
    /// What its weights depend on: the step, and the orders of what it reads.
    pub fn orders(&self) -> Operation<Option<Vec<usize>>> {
        self.clone().map(|operand, _| operand.order)
    }

    /// What it reads.
    pub fn reads(&self) -> Vec<View> {
        let mut views = Vec::new();
        if let Self::Gather { parts } = self {
            views.extend(parts.iter().map(|(view, _)| *view));
        }
        let _: Operation<()> = self.clone().map(|operand, _| views.push(operand.view));
        views
    }
}
