//! The transformer encoder that the text recipes share, and the fused operators that it is made of.
//!
//! A batch is packed ([`Packed`]): its tokens lie end to end, `[tokens, features]`, and offsets say where each sequence
//! starts. So nothing is computed for padding, and an answer cannot depend on how long its batch-mates are.
//!
//! Each operator is a candle custom op around a kernel on plain slices, so that other devices can get kernels of their
//! own. The kernels share out rows or heads over rayon's global pool.

mod attention;
mod bench;
mod embeddings;
mod encoder;
mod linear;
mod norm;
mod packed;
#[cfg(test)]
mod tests;

pub use attention::attention;
pub use bench::bench_cases;
pub use embeddings::embed;
pub use encoder::{Encoder, EncoderConfig, TensorNames};
pub use linear::{Activation, Linear};
pub use norm::residual_layer_norm;
pub use packed::Packed;

/// Elements below which handing work to another thread costs more than doing it.
const TASK: usize = 1 << 14;
