//! An LSTM with a linear layer on the last output of each sequence, on the device that it is built for.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{Dense, Lstm, LstmConfig};
use crate::{
    backend::{Backend, Kind},
    host,
    simd::Precision,
};

/// A stack of LSTM layers that tells classes of sequences: in f32 on the CPU, in f16 or f32 on a CUDA device.
pub struct LstmClassifier {
    config: LstmConfig,
    network: Network,
}

enum Network {
    Cpu {
        lstm: Lstm,
        head: Dense,
    },
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Classifier>),
}

impl LstmClassifier {
    /// Reads the stack's tensors as [`Lstm::load`], and the linear layer's `weight` `[classes, outputs]` and `bias` `[classes]`.
    ///
    /// # Errors
    /// The device does not compute LSTMs in that precision, there is no layer, or a tensor is missing or has another shape.
    pub fn load(
        backend: &Backend,
        (vb, config): (&VarBuilder<'_>, LstmConfig),
        (head, classes): (&VarBuilder<'_>, usize),
    ) -> Result<Self> {
        let network = match &backend.0 {
            Kind::Cpu(Precision::F32) => Network::Cpu {
                lstm: Lstm::load(vb, config)?,
                head: Dense::load(head, config.outputs(), classes)?,
            },
            Kind::Cpu(_) => bail!("an LSTM computes in f32 on the CPU: use --dtype f32"),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => Network::Cuda(Box::new(cuda::Classifier::load(
                gpu,
                (vb, config),
                (head, classes),
            )?)),
        };
        Ok(Self { config, network })
    }

    /// The logits `[sequences, classes]`, end to end, of sequences packed end to end: `x` is `[rows, input]`, and the lengths add up
    /// to `rows`. A sequence of length 0 has the linear layer's bias.
    ///
    /// # Errors
    /// The shapes do not fit, `x` is not f32 on the CPU, or the device failed.
    pub fn forward(&self, x: &Tensor, lengths: &[usize]) -> Result<Vec<f32>> {
        let rows = lengths.iter().sum();
        host::expect_shape("lstm: an input", x, &[rows, self.config.input])?;
        match &self.network {
            Network::Cpu { lstm, head } => {
                let output = lstm.forward(x, lengths)?.output;
                let width = self.config.outputs();
                let last = host::with(&output, |output| {
                    let mut end = 0;
                    let last = lengths.iter().flat_map(|&length| {
                        end += length;
                        let row = end.checked_sub(1).filter(|_| length > 0);
                        row.map_or(vec![0.0; width], |row| {
                            output[row * width..][..width].to_vec()
                        })
                    });
                    Ok(last.collect::<Vec<f32>>())
                })?;
                Ok(head.forward(&last))
            }
            #[cfg(feature = "cuda")]
            Network::Cuda(network) => host::with(&x.contiguous()?, |x| network.forward(x, lengths)),
        }
    }
}

impl std::fmt::Debug for LstmClassifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LstmClassifier")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
