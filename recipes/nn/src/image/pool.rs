//! Global average pooling.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::host;

/// The mean over all pixels: `[n, h, w, c]` -> `[n, c]`.
///
/// # Errors
/// The shape does not fit, or the device has no such operator.
pub fn global_average_pool(x: &Tensor) -> Result<Tensor> {
    x.apply_op1_no_bwd(&Pool)
}

struct Pool;

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "global average pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::values(storage, layout)?;
        let (n, h, w, channels) = layout.shape().dims4()?;
        let mut means = vec![0.0f32; n * channels];
        means
            .par_chunks_exact_mut(channels)
            .zip(x.par_chunks_exact(h * w * channels))
            .for_each(|(means, image)| {
                for pixel in image.chunks_exact(channels) {
                    means.iter_mut().zip(pixel).for_each(|(mean, x)| *mean += x);
                }
                let share = 1.0 / (h * w) as f32;
                means.iter_mut().for_each(|mean| *mean *= share);
            });
        Ok((CpuStorage::F32(means), (n, channels).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::{assert_close, random};

    #[test]
    fn equals_the_mean() {
        for shape in [[1, 1, 1, 1], [3, 4, 7, 21]] {
            let x = random(&shape, 1);
            let expected = x.mean((1, 2)).unwrap();
            assert_close("mean", &global_average_pool(&x).unwrap(), &expected, 1e-5);
        }
    }
}
