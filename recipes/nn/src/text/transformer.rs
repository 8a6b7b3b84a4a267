//! A transformer and the head on it: token ids in, logits or features out, on one device.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    config::{TensorNames, TransformerConfig},
    encoder::Encoder,
    linear::Linear,
    packed::Packed,
};
use crate::{
    activation::Activation,
    backend::{Backend, Kind},
    pool,
};

/// Which of a sequence's tokens the head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// All of them: a row for each token.
    Tokens,
    /// The first one: a row for each sequence.
    First,
    /// The last one, the only one that has seen all others where attention is causal: a row for each sequence.
    Last,
    /// The mean of all: a row for each sequence.
    Mean,
}

impl Pooling {
    /// How many rows it makes of a batch.
    ///
    /// # Errors
    /// It is to make a row of a sequence without a token.
    pub(super) fn count(self, batch: &Packed) -> Result<usize> {
        if self == Self::Tokens {
            return Ok(batch.ids().len());
        }
        if batch.lengths().any(|length| length == 0) {
            bail!("expected at least one token in each sequence")
        }
        Ok(batch.lengths().count())
    }

    /// The tokens to which the last layer's second half can be confined; none if all are read.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub(super) fn rows(self, batch: &Packed) -> Result<Option<Vec<usize>>> {
        self.count(batch)?;
        let sequences = batch.offsets().windows(2);
        Ok(match self {
            Self::Tokens | Self::Mean => None,
            Self::First => Some(sequences.map(|bounds| bounds[0]).collect()),
            Self::Last => Some(sequences.map(|bounds| bounds[1] - 1).collect()),
        })
    }
}

/// What follows the last layer.
#[derive(Clone, Debug)]
pub struct Head {
    /// What it reads.
    pub pooling: Pooling,
    /// Its layers in their order, of which the last one gives the logits; without any, features come out as they are.
    pub layers: Vec<HeadLayer>,
}

/// `activation(x W^T + b)`.
#[derive(Clone, Debug)]
pub struct HeadLayer {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Tensor,
    /// What follows.
    pub activation: Activation,
}

impl HeadLayer {
    /// Reads `weight` and `bias` under `vb`.
    ///
    /// # Errors
    /// One is missing or has another shape.
    pub fn load(
        vb: &VarBuilder,
        (inputs, outputs): (usize, usize),
        activation: Activation,
    ) -> Result<Self> {
        Ok(Self {
            weight: vb.get((outputs, inputs), "weight")?,
            bias: vb.get(outputs, "bias")?,
            activation,
        })
    }
}

/// A transformer with its head, laid out for a device.
#[derive(Debug)]
pub struct Transformer {
    network: Network,
    outputs: usize,
}

#[derive(Debug)]
enum Network {
    Cpu(Box<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Network>),
}

/// On the CPU the head is in f32 whatever the layers compute in.
#[derive(Debug)]
struct Cpu {
    encoder: Encoder,
    pooling: Pooling,
    head: Vec<(Linear, Activation)>,
}

impl Transformer {
    /// Reads the weights of all but the head under `vb`, whose prefix is the model's own (`bert`, `distilbert`).
    ///
    /// # Errors
    /// There is no layer, a tensor is missing or has another shape, the head does not fit, or the device has too little memory or
    /// no kernels for such sizes.
    pub fn load(
        config: &TransformerConfig,
        names: &TensorNames,
        head: &Head,
        backend: &Backend,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let mut width = config.hidden;
        for layer in &head.layers {
            let (outputs, inputs) = layer.weight.dims2()?;
            if inputs != width {
                bail!("head: expected a layer of {width} inputs, got one of {inputs}")
            }
            width = outputs;
        }
        if config.layers == 0 {
            bail!("expected at least one layer")
        }
        let network = match &backend.0 {
            Kind::Cpu(precision) => {
                let layer = |layer: &HeadLayer| {
                    Ok((Linear::new(&layer.weight, &layer.bias)?, layer.activation))
                };
                Network::Cpu(Box::new(Cpu {
                    encoder: Encoder::load(config, names, *precision, vb)?,
                    pooling: head.pooling,
                    head: head.layers.iter().map(layer).collect::<Result<_>>()?,
                }))
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                Network::Cuda(Box::new(cuda::Network::load(gpu, config, names, head, vb)?))
            }
        };
        Ok(Self {
            network,
            outputs: width,
        })
    }

    /// Logits or features on the host, in f32: `[tokens, outputs]`, or `[sequences, outputs]` where the head reads a row of
    /// each. A pass on the CPU runs in the CPU pool; one on another device is waited for by the calling thread.
    ///
    /// # Errors
    /// An id is outside the vocabulary, a sequence is too long, or has no token of which to make a row; or the device failed.
    pub fn forward(&self, batch: &Packed) -> Result<Tensor> {
        match &self.network {
            Network::Cpu(cpu) => pool::run(|| cpu.forward(batch)),
            #[cfg(feature = "cuda")]
            Network::Cuda(network) => {
                let values = network.forward(batch)?;
                let rows = values.len() / self.outputs.max(1);
                Tensor::from_vec(values, (rows, self.outputs), &candle_core::Device::Cpu)
            }
        }
    }

    /// Tokens that should be computed at once, at most: where more make a device no faster, and memory must not grow with
    /// what there is.
    pub fn most_tokens(&self) -> usize {
        match &self.network {
            // 128 texts of 64.
            Network::Cpu(_) => 8192,
            // About a gigabyte of a BERT-base.
            #[cfg(feature = "cuda")]
            Network::Cuda(_) => 65_536,
        }
    }

    /// Values in a row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

impl Cpu {
    fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let mut x = self.encoder.forward(batch, self.pooling)?;
        for (linear, activation) in &self.head {
            x = linear.forward(&x, *activation)?;
        }
        Ok(x)
    }
}
