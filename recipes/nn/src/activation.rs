//! What follows a layer.

use crate::simd::{Vector, below_sigmoid, gelu, gelu_tanh, silu, tanh};

/// An elementwise function applied to a layer's output, while that is still in registers or the nearest cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
    /// The exact GELU, `x/2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `max(x, 0)`.
    Relu,
    /// The GELU by way of tanh, as GPT-2 has it: `x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
}

impl Activation {
    /// Of each lane. What is no number stays so: of two, `max` and `min` take the second then.
    #[inline(always)]
    pub(crate) unsafe fn apply<V: Vector>(self, x: V) -> V {
        // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
        unsafe {
            match self {
                Self::None => x,
                Self::Relu6 => V::splat(6.0).min(V::splat(0.0).max(x)),
                Self::Silu => silu(x),
                Self::Gelu => gelu(x),
                Self::Tanh => tanh(x),
                Self::Sigmoid => V::splat(1.0).div(below_sigmoid(x)),
                Self::Relu => V::splat(0.0).max(x),
                Self::GeluTanh => gelu_tanh(x),
            }
        }
    }

    /// The least and the largest of what it gives, if it changes nothing between.
    #[inline(always)]
    pub(crate) fn bounds(self) -> Option<[f32; 2]> {
        match self {
            Self::None => Some([f32::NEG_INFINITY, f32::INFINITY]),
            Self::Relu6 => Some([0.0, 6.0]),
            Self::Relu => Some([0.0, f32::INFINITY]),
            Self::Silu | Self::Gelu | Self::Tanh | Self::Sigmoid | Self::GeluTanh => None,
        }
    }

    /// Of one number, in the plain way.
    #[cfg(test)]
    pub(crate) fn of(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Gelu => {
                let x = candle_core::Tensor::new(&[f64::from(x)], &candle_core::Device::Cpu);
                let y = x
                    .and_then(|x| x.gelu_erf())
                    .and_then(|y| y.to_vec1::<f64>());
                y.unwrap()[0] as f32
            }
            Self::Tanh => x.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Relu => x.max(0.0),
            Self::GeluTanh => {
                let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }
}
