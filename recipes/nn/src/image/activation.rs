//! What follows a convolution.

use crate::simd::{Vector, exp};

/// An elementwise function applied to a layer's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
}

impl Activation {
    /// Of each lane.
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector>(self, x: V) -> V {
        // SAFETY: register arithmetic only; the instruction set is the caller's to vouch for.
        unsafe {
            match self {
                Self::None => x,
                Self::Relu6 => x.max(V::splat(0.0)).min(V::splat(6.0)),
                Self::Silu => x.div(exp(x.mul(V::splat(-1.0))).add(V::splat(1.0))),
            }
        }
    }

    /// Of one number, in the plain way.
    #[cfg(test)]
    pub(super) fn of(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }
}
