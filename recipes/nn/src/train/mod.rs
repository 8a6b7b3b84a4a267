//! Training steps of the networks that [`crate::graph`] describes.
//!
//! A network's shapes are fixed, so forward, backward and update are one list, made once and without a device:
//! [`differentiate`] gives a [`Plan`], whose memory is planned as a whole. A [`Trainer`] runs it.

mod cpu;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
mod cuda;
mod differentiate;
mod place;
mod plan;
#[cfg(test)]
pub(crate) mod reference;
mod settings;
#[cfg(test)]
mod tests;
mod trace;
mod trainer;
mod update;
mod verify;

pub use differentiate::{Form, differentiate};
pub use plan::{Access, Backward, Layer, Loss, Onto, Operand, Operation, Plan, Slot, Tensor};
pub use settings::{Optimizer, Settings};
pub use trace::{Batch, Norms, Trace, trace};
pub use trainer::{Outcome, Parameter, Trainer};
