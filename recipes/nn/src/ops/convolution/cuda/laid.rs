//! Convolutions whose numbers are on the device already, laid out for `conv_sm90.cu`: those of training.

use super::{Convolution, Kind, Lines};
use crate::{
    activation::Activation,
    cuda::Span,
    graph::{self, Window},
};

impl Convolution {
    /// Of numbers that lie on the device as `conv_sm90.cu` reads them: so many steps for each place of the kernel.
    pub(crate) fn laid(
        (weight, bias): (Span, Option<Span>),
        window: Window,
        [groups, filters]: [usize; 2],
        chunks: usize,
    ) -> Self {
        Self {
            weight,
            bias,
            before: None,
            kind: Kind::Sm90 { chunks },
            window,
            groups,
            filters,
            activation: Activation::None,
        }
    }

    /// The same of a layer of few channels, which `conv_sm90.cu` reads by lines, as [`lines`] says.
    pub(crate) fn laid_by_lines(
        (weight, bias): (Span, Option<Span>),
        layer: &graph::Convolution,
        channels: usize,
    ) -> Option<Self> {
        Some(Self {
            kind: Kind::Lines(Lines::of(layer, channels)?),
            ..Self::laid((weight, bias), layer.window, [1, layer.outputs], 1)
        })
    }
}

/// The shape `[lines, line]` of each filter's weight for a layer of few channels, if it can be read by lines.
pub(crate) fn lines(layer: &graph::Convolution, channels: usize) -> Option<[usize; 2]> {
    Lines::of(layer, channels).map(|lines| lines.shape(layer.window.kernel))
}
