//! The operators at the shapes that the recipes meet, ready to be timed (`galley bench operators`).
//!
//! Each module lists its own cases; this one only strings them together, so that the benchmark needs no knowledge of
//! any operator.

use std::{cell::Cell, time::Duration};

use candle_core::{Device, Result};

#[cfg(feature = "cuda")]
use crate::cuda::Held;
use crate::{Backend, backend::Kind};

/// One operator at one shape, with its inputs and weights already made.
pub struct OperatorCase {
    /// What it is: `depthwise 3x3`, `pointwise`, `bilstm`.
    pub operator: &'static str,
    /// The shape of one item's input, without the batch: `[height, width, channels]` or `[tokens, features]`.
    pub shape: Vec<usize>,
    /// How many items one run takes.
    pub batch: usize,
    /// What it computes in: `f32`, `f16`.
    pub dtype: &'static str,
    /// Runs it once, from inputs on the host to outputs on the host.
    pub run: Box<dyn FnMut() -> Result<()>>,
}

/// The operators of this crate that run by themselves on a backend: all of them on the CPU, the LSTM on a CUDA device.
///
/// # Errors
/// Making the inputs failed.
pub fn operator_cases(backend: &Backend) -> Result<Vec<OperatorCase>> {
    match &backend.0 {
        Kind::Cpu(_) => {
            let cases = vec![
                crate::image::bench_cases()?,
                crate::lstm::bench_cases()?,
                crate::text::bench_cases()?,
            ];
            Ok(cases.into_iter().flatten().collect())
        }
        #[cfg(feature = "cuda")]
        Kind::Cuda(_) => crate::lstm::cuda_bench_cases(backend),
    }
}

thread_local! {
    /// How often passes on this thread are repeated, and what that has taken.
    static RESIDENT: Cell<(usize, Duration)> = const { Cell::new((0, Duration::ZERO)) };
}

/// Runs `forward`, and each pass that it makes on a device so many times more, one right after the other, on the input that lies
/// in the device's memory by then. Gives the time of these repetitions: what the device takes without copies from and to the
/// host. It is zero on a CPU, which has no such copies.
pub fn resident<T>(times: usize, forward: impl FnOnce() -> T) -> (T, Duration) {
    RESIDENT.set((times, Duration::ZERO));
    let result = forward();
    let (_, time) = RESIDENT.replace((0, Duration::ZERO));
    (result, time)
}

/// Does something, and gives the most bytes of a CUDA device's memory that networks of this process had allocated at a time meanwhile,
/// those that were loaded before included. One at a time, or the first may be told too little.
///
/// They are weights and what is trained with them, what passes and steps compute in, and what the vendor's libraries are given to work
/// in, also while their algorithms are chosen. Not among them is what driver and libraries have for themselves: the context, kernels'
/// code. None of other devices.
pub fn allocated<T>(device: &Device, work: impl FnOnce() -> T) -> (T, Option<u64>) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let held = Held::of(device.cuda_stream().context().ordinal());
            let (result, bytes) = held.during(work);
            (result, Some(bytes as u64))
        }
        _ => (work(), None),
    }
}

/// How often a pass is to be repeated.
#[cfg(feature = "cuda")]
pub(crate) fn repetitions() -> usize {
    RESIDENT.get().0
}

/// What the repetitions of a pass took.
#[cfg(feature = "cuda")]
pub(crate) fn repeated(time: Duration) {
    let (times, sum) = RESIDENT.get();
    RESIDENT.set((times, sum + time));
}
