//! Channels in turns: each group's first before each group's second.

#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
pub(crate) mod cuda;

use rayon::prelude::*;

use super::Onto;

/// Pixels of a task.
const TASK_PIXELS: usize = 256;

/// `to[i] = from[i % groups * each + i / groups]` for each pixel's channels, on rayon's pool. With `channels / groups` groups it
/// undoes that with `groups`.
///
/// # Panics
/// Lengths do not fit.
pub(crate) fn run(groups: usize, channels: usize, from: &[f32], to: &mut [f32], onto: Onto) {
    assert_eq!(from.len(), to.len(), "pixels");
    let each = channels / groups;
    let len = TASK_PIXELS * channels;
    let tasks = to.par_chunks_mut(len).zip(from.par_chunks(len));
    tasks.for_each(|(to, from)| {
        let pixels = to
            .chunks_exact_mut(channels)
            .zip(from.chunks_exact(channels));
        for (to, from) in pixels {
            for (group, from) in from.chunks_exact(each).enumerate() {
                for (to, from) in to[group..].iter_mut().step_by(groups).zip(from) {
                    onto.put(to, *from);
                }
            }
        }
    });
}
