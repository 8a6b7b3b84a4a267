//! The transformer encoder that the text recipes share, and the fused operators that it is made of.
//!
//! A batch is packed ([`Packed`]): its tokens lie end to end, `[tokens, features]`, and offsets say where each sequence
//! starts. So nothing is computed for padding, and an answer cannot depend on how long its batch-mates are.
//!
//! A [`Classifier`] is an encoder with a head on it, on any device; an [`Encoder`] alone is for the CPU.
//!
//! On the CPU a pass runs from token ids to the last layer's output in memory that is kept from pass to pass, and is a
//! candle tensor only then. The kernels work on plain slices, and share out rows or heads over rayon's global pool. On a CUDA device a pass is a list of launches, and only logits come back (`cuda`).

mod attention;
mod bench;
mod classifier;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
mod cuda;
mod embeddings;
mod encoder;
mod layer;
mod linear;
mod norm;
mod packed;
#[cfg(test)]
mod tests;

pub use crate::activation::Activation;
pub use bench::bench_cases;
pub use classifier::{Classifier, Head, HeadLayer, Pooling};
pub use encoder::{Encoder, EncoderConfig, TensorNames};
pub use linear::Linear;
pub use packed::Packed;

/// Elements below which handing work to another thread costs more than doing it.
const TASK: usize = 1 << 14;
