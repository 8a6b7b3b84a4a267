//! An encoder and the head on it: token ids in, logits out, on one device.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    encoder::{Encoder, EncoderConfig, TensorNames},
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
    /// All of them: a row of logits for each token.
    Tokens,
    /// The first one: a row of logits for each sequence.
    First,
}

/// The layers over the encoder.
#[derive(Clone, Debug)]
pub struct Head {
    /// What they read.
    pub pooling: Pooling,
    /// The layers in their order; the last one gives the logits.
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

/// An encoder with its head, laid out for a device.
#[derive(Debug)]
pub struct Classifier {
    network: Network,
    labels: usize,
}

#[derive(Debug)]
enum Network {
    Cpu(Box<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Network>),
}

/// On the CPU the head is in f32 whatever the encoder computes in.
#[derive(Debug)]
struct Cpu {
    encoder: Encoder,
    pooling: Pooling,
    head: Vec<(Linear, Activation)>,
}

impl Classifier {
    /// Reads the encoder's weights under `vb`, whose prefix is the encoder's own (`bert`, `distilbert`).
    ///
    /// # Errors
    /// A tensor is missing or has another shape, the head does not fit the encoder, or the device has too little memory or
    /// no kernels for such sizes.
    pub fn load(
        config: &EncoderConfig,
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
        if head.layers.is_empty() {
            bail!("head: expected at least one layer")
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
            labels: width,
        })
    }

    /// Logits on the host, in f32: `[tokens, labels]`, or `[sequences, labels]` where the head reads first tokens. A pass on
    /// the CPU runs in the CPU pool; one on another device is waited for by the calling thread.
    ///
    /// # Errors
    /// An id is outside the vocabulary, a sequence is too long, or has no first token; or the device failed.
    pub fn forward(&self, batch: &Packed) -> Result<Tensor> {
        match &self.network {
            Network::Cpu(cpu) => pool::run(|| cpu.forward(batch)),
            #[cfg(feature = "cuda")]
            Network::Cuda(network) => {
                let logits = network.forward(batch)?;
                let rows = logits.len() / self.labels.max(1);
                Tensor::from_vec(logits, (rows, self.labels), &candle_core::Device::Cpu)
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

    /// Logits in a row.
    pub fn labels(&self) -> usize {
        self.labels
    }
}

impl Cpu {
    fn forward(&self, batch: &Packed) -> Result<Tensor> {
        let mut x = match self.pooling {
            Pooling::Tokens => self.encoder.forward(batch)?,
            Pooling::First => self.encoder.forward_first(batch)?,
        };
        for (linear, activation) in &self.head {
            x = linear.forward(&x, *activation)?;
        }
        Ok(x)
    }
}
