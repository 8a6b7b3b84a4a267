//! Transformers, and the fused operators that they are made of.
//!
//! A batch is packed ([`Packed`]): its tokens lie end to end, `[tokens, features]`, and offsets say where each sequence
//! starts. So nothing is computed for padding, and an answer cannot depend on how long its batch-mates are.
//!
//! A [`TransformerConfig`] says what a transformer is: BERT, DistilBERT and GPT-2 are of this kind. Files have its weights
//! under [`TensorNames`], a [`Head`] follows its last layer, and a [`Transformer`] is all of that on a device.
//!
//! On the CPU a pass runs from token ids to the last layer's output in memory that is kept from pass to pass, and is a
//! candle tensor only then. The kernels work on plain slices, and share out rows or heads over rayon's global pool. On a
//! CUDA device a pass is a list of launches, and only what the head gives comes back (`cuda`).

mod bench;
mod config;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
mod cuda;
mod embeddings;
mod encoder;
#[cfg(test)]
mod golden;
mod graph;
mod layer;
mod linear;
mod norm;
mod packed;
#[cfg(test)]
mod tests;
mod transformer;

pub use crate::activation::Activation;
pub use bench::bench_cases;
pub use config::{Norm, TensorNames, TransformerConfig};
pub use linear::Linear;
pub use packed::Packed;
pub use transformer::{Head, HeadLayer, Pooling, Transformer};

/// Elements below which handing work to another thread costs more than doing it.
const TASK: usize = 1 << 14;
