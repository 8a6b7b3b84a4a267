//! Convolutional image networks built of inverted bottlenecks (MobileNet, EfficientNet).
//!
//! [`Layers`] says what a network is made of, and [`Network`] runs it: all of it, so that what is between its layers is
//! neither allocated nor moved more often than needed. BatchNorm is folded into the weights at load
//! ([`BatchNorm::fold`]).

mod bench;
mod colours;
pub(crate) mod cpu;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;
mod fold;
mod layers;
mod network;
pub(crate) mod padding;

pub use crate::activation::Activation;
pub(crate) use bench::bench_cases;
pub use colours::Colours;
pub(crate) use colours::Table;
pub use fold::BatchNorm;
pub use layers::{Bottleneck, Convolution, Layers, Window};
pub use network::Network;
pub(crate) use network::expect_size;
pub use padding::Padding;
