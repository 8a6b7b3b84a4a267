//! Which of several ways to compute the same is the fastest.

use candle_core::{
    Result,
    cuda_backend::{WrapErr, cudarc::driver::CudaStream},
};

use crate::cuda::Gpu;

/// Times that each is measured.
const ROUNDS: usize = 3;
/// A way that comes later in the library's own order must take less than this share of the time of those before it: what is
/// about as fast is not chosen by chance, for another algorithm has other last bits.
const CLEARLY: f32 = 0.95;

/// The place of the one that is fastest, if any works: of those that are about as fast, the first.
///
/// # Errors
/// The driver refuses.
pub(super) fn fastest<T>(
    gpu: &Gpu,
    ways: &[T],
    start: impl Fn(&T, &CudaStream) -> Result<()>,
) -> Result<Option<usize>> {
    let stream = gpu.stream()?;
    let [before, after] = [gpu.event()?, gpu.event()?];
    let mut best: Option<(usize, f32)> = None;
    for (place, way) in ways.iter().enumerate() {
        // The first time may load a kernel. What fails is no choice.
        if start(way, &stream).is_err() {
            continue;
        }
        let mut least = f32::INFINITY;
        for _ in 0..ROUNDS {
            before.record(&stream).w()?;
            start(way, &stream)?;
            after.record(&stream).w()?;
            least = least.min(before.elapsed_ms(&after).w()?);
        }
        if best.is_none_or(|(_, time)| least < time * CLEARLY) {
            best = Some((place, least));
        }
    }
    stream.synchronize().w()?;
    Ok(best.map(|(place, _)| place))
}
