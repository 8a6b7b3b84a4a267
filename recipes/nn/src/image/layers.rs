//! What a network is made of, before any device has laid it out for its kernels.

use candle_core::{Result, Tensor, bail};

use super::{Activation, Colours, Padding};

/// An image network of inverted bottlenecks: MobileNetV2, EfficientNet and their like.
#[derive(Clone, Debug)]
pub struct Layers {
    /// What bytes mean, where images come as such.
    pub colours: Colours,
    /// The first convolution, 3x3 with stride 2 over three colours: a weight `[c, 3, 3, 3]`.
    pub stem: Convolution,
    /// The zeros around the image under the stem.
    pub stem_padding: Padding,
    /// Each takes the channels that the one before gives.
    pub blocks: Vec<Bottleneck>,
    /// The last 1x1 convolution, of which the mean is taken over all pixels.
    pub head: Convolution,
    /// From these means to the classes.
    pub classifier: Convolution,
    /// What follows every convolution but those that project, and the classifier.
    pub activation: Activation,
}

/// An inverted bottleneck: expand, depthwise, squeeze-excite, project.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// 1x1, to `w` channels; without it, `w` is what the block takes.
    pub expand: Option<Convolution>,
    /// A weight `[w, 1, k, k]`: each channel with a filter of its own.
    pub depthwise: Convolution,
    /// How the depthwise convolution moves over the image.
    pub window: Window,
    /// A gate between 0 and 1 for each channel of an image, from the means of all its channels (Hu et al.,
    /// "Squeeze-and-Excitation Networks"): to `s` values with SiLU, and back to `w` with a sigmoid.
    pub squeeze_excite: Option<[Convolution; 2]>,
    /// 1x1, without an activation.
    pub project: Convolution,
    /// Whether the block's input is added to its output.
    pub residual: bool,
}

/// A convolution's numbers, with those of the BatchNorm after it folded in; a linear layer's are those of a 1x1.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// `[c, ..]`.
    pub weight: Tensor,
    /// `[c]`.
    pub bias: Tensor,
}

/// How a depthwise convolution moves over the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Pixels from one output to the next, both ways: 1 or 2.
    pub stride: usize,
    /// The zeros around the image.
    pub padding: Padding,
}

impl Convolution {
    /// The channels and the kernel of a depthwise one, if there are kernels for it.
    pub(super) fn depthwise(&self, window: Window) -> Result<[usize; 2]> {
        let (channels, one, kernel, width) = self.weight.dims4()?;
        let known = matches!(kernel, 3 | 5) && matches!(window.stride, 1 | 2);
        if one != 1 || kernel != width || !known {
            bail!(
                "expected a depthwise weight [c, 1, 3, 3] or [c, 1, 5, 5] and stride 1 or 2, got {:?} and {}",
                self.weight.dims(),
                window.stride
            )
        }
        Ok([channels, kernel])
    }
}
