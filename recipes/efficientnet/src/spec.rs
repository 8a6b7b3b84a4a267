//! The architectures as numbers. One network builds all of them.
//!
//! EfficientNet (Tan and Le 2019) is a stem, seven stages of inverted bottlenecks, a head and a classifier. B0 and B2
//! differ in width and depth; TensorFlow's and torchvision's editions of the same size in padding, BatchNorm's epsilon
//! and the names of the tensors; Lite0 has no squeeze-excite, and ReLU6 for SiLU.

use galley_image::View;
use galley_nn::image::{Activation, Colours, Padding};

use crate::names::{LITE, Naming, TIMM, TORCHVISION};

/// One network with its preprocessing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// The name in a `config.json`.
    pub(crate) architecture: &'static str,
    /// The stem's channels.
    pub(crate) stem: usize,
    pub(crate) stages: [Stage; 7],
    /// The head's channels.
    pub(crate) head: usize,
    pub(crate) activation: Activation,
    pub(crate) squeeze_excite: bool,
    pub(crate) edition: Edition,
    /// BatchNorm's epsilon.
    pub(crate) eps: f64,
    /// How the weight file names its tensors.
    pub(crate) naming: &'static Naming,
    /// The pixels that the network sees.
    pub(crate) view: View,
    /// What the bytes of pixels mean to it.
    pub(crate) colours: Colours,
}

/// Blocks of like shape; the stride is that of the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stage {
    pub(crate) expand: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) out: usize,
    pub(crate) repeats: usize,
}

/// Whose padding the weights were trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edition {
    Torch,
    TensorFlow,
}

impl Edition {
    pub(crate) fn padding(self, kernel: usize) -> Padding {
        match self {
            Self::Torch => Padding::Symmetric(kernel / 2),
            Self::TensorFlow => Padding::Same,
        }
    }
}

/// ImageNet's, as all of torchvision and timm use it.
const IMAGENET: Colours = Colours {
    mean: [0.485 * 255.0, 0.456 * 255.0, 0.406 * 255.0],
    deviation: [0.229 * 255.0, 0.224 * 255.0, 0.225 * 255.0],
};

const fn stages(out: [usize; 7], repeats: [usize; 7]) -> [Stage; 7] {
    const KERNELS: [usize; 7] = [3, 3, 5, 3, 5, 5, 3];
    const STRIDES: [usize; 7] = [1, 2, 2, 2, 1, 2, 1];
    let mut stages = [Stage {
        expand: 1,
        kernel: 3,
        stride: 1,
        out: 0,
        repeats: 0,
    }; 7];
    let mut i = 0;
    while i < 7 {
        stages[i] = Stage {
            expand: if i == 0 { 1 } else { 6 },
            kernel: KERNELS[i],
            stride: STRIDES[i],
            out: out[i],
            repeats: repeats[i],
        };
        i += 1;
    }
    stages
}

/// torchvision's `efficientnet_b0`, its `IMAGENET1K_V1` transforms.
pub(crate) const B0: Spec = Spec {
    architecture: "efficientnet_b0",
    stem: 32,
    stages: stages([16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
    head: 1280,
    activation: Activation::Silu,
    squeeze_excite: true,
    edition: Edition::Torch,
    eps: 1e-5,
    naming: &TORCHVISION,
    view: View {
        resize: 256,
        crop: 224,
    },
    colours: IMAGENET,
};

/// torchvision's `efficientnet_b2`, its `IMAGENET1K_V1` transforms.
pub(crate) const B2_TORCHVISION: Spec = Spec {
    architecture: "efficientnet_b2",
    stages: stages([16, 24, 48, 88, 120, 208, 352], [2, 3, 3, 4, 4, 5, 2]),
    head: 1408,
    view: View {
        resize: 288,
        crop: 288,
    },
    ..B0
};

/// timm's `tf_efficientnet_b2`: TensorFlow's padding and epsilon, 260 pixels out of 292 (a crop of 0.89).
pub(crate) const B2: Spec = Spec {
    architecture: "tf_efficientnet_b2",
    edition: Edition::TensorFlow,
    eps: 1e-3,
    naming: &TIMM,
    view: View {
        resize: 292,
        crop: 260,
    },
    ..B2_TORCHVISION
};

/// EfficientNet-Lite0.
pub(crate) const LITE0: Spec = Spec {
    architecture: "efficientnet_lite0",
    activation: Activation::Relu6,
    squeeze_excite: false,
    edition: Edition::TensorFlow,
    eps: 1e-3,
    naming: &LITE,
    colours: Colours {
        mean: [127.0; 3],
        deviation: [128.0; 3],
    },
    ..B0
};

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn lite0_is_what_its_config_says() {
        let config: Value =
            serde_json::from_slice(include_bytes!("../weights/lite0/config.json")).unwrap();
        let number = |value: &Value| value.as_u64().unwrap() as usize;
        assert_eq!(number(&config["stem"]["out"]), LITE0.stem);
        assert_eq!(number(&config["head"]["out"]), LITE0.head);
        assert_eq!(config["bn_eps"].as_f64().unwrap(), LITE0.eps);
        let preprocessing = &config["preprocessing"];
        assert_eq!(
            number(&preprocessing["resize_shorter_side"]),
            LITE0.view.resize
        );
        assert_eq!(number(&preprocessing["center_crop"]), LITE0.view.crop);
        for (stage, config) in LITE0
            .stages
            .iter()
            .zip(config["stages"].as_array().unwrap())
        {
            let of_config = Stage {
                expand: number(&config["expand_ratio"]),
                kernel: number(&config["kernel"]),
                stride: number(&config["stride"]),
                out: number(&config["out"]),
                repeats: number(&config["repeats"]),
            };
            assert_eq!(*stage, of_config);
        }
    }
}
