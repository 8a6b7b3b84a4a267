//! BatchNorm folded into the convolution before it, so that it costs nothing when the network runs.

use candle_core::{Result, Tensor};

use super::Convolution;

/// A BatchNorm's numbers, each `[channels]`.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// The learned scale (`weight`).
    pub scale: Tensor,
    /// The learned shift (`bias`).
    pub shift: Tensor,
    /// The running mean.
    pub mean: Tensor,
    /// The running variance.
    pub variance: Tensor,
    /// What is added to the variance. It matters: real networks have channels of variance 0.
    pub eps: f64,
}

impl BatchNorm {
    /// The one convolution that does what `weight` (`[channels, ..]`, no bias) and then this
    /// BatchNorm do: `w * s` and `shift - mean * s` with `s = scale / sqrt(variance + eps)`.
    ///
    /// Computed in f64, for the factors multiply through a whole network.
    ///
    /// # Errors
    /// The shapes do not fit together.
    pub fn fold(&self, weight: &Tensor) -> Result<Convolution> {
        use candle_core::DType::F64;
        let dtype = weight.dtype();
        let deviation = (self.variance.to_dtype(F64)? + self.eps)?.sqrt()?;
        let factor = (self.scale.to_dtype(F64)? / deviation)?;
        let bias = (self.shift.to_dtype(F64)? - (self.mean.to_dtype(F64)? * &factor)?)?;
        let mut shape = vec![1; weight.rank()];
        shape[0] = factor.elem_count();
        let weight = weight
            .to_dtype(F64)?
            .broadcast_mul(&factor.reshape(shape)?)?;
        Ok(Convolution {
            weight: weight.to_dtype(dtype)?,
            bias: bias.to_dtype(dtype)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::ModuleT;

    use super::*;
    use crate::host::tests::{assert_close, random};

    #[test]
    fn one_folded_convolution_equals_convolution_and_batch_norm() {
        let weight = random(&[6, 4, 3, 3], 1);
        let norm = BatchNorm {
            scale: random(&[6], 2),
            shift: random(&[6], 3),
            mean: random(&[6], 4),
            variance: random(&[6], 5).sqr().unwrap(),
            eps: 1e-3,
        };
        let image = random(&[2, 4, 7, 5], 6);
        let plain = image.conv2d(&weight, 1, 1, 1, 1).unwrap();
        let expected = candle_nn::BatchNorm::new(
            6,
            norm.mean.clone(),
            norm.variance.clone(),
            norm.scale.clone(),
            norm.shift.clone(),
            norm.eps,
        )
        .unwrap()
        .forward_t(&plain, false)
        .unwrap();
        let Convolution { weight, bias } = norm.fold(&weight).unwrap();
        let folded = image.conv2d(&weight, 1, 1, 1, 1).unwrap();
        let folded = folded
            .broadcast_add(&bias.reshape((1, 6, 1, 1)).unwrap())
            .unwrap();
        assert_close("folded", &folded, &expected, 1e-4);
    }
}
