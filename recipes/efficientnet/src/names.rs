//! What the libraries call the tensors of the same network.

/// One library's names. A pair is a convolution and the BatchNorm after it.
#[derive(Debug)]
pub(crate) struct Naming {
    pub(crate) stem: [&'static str; 2],
    pub(crate) head: [&'static str; 2],
    pub(crate) classifier: &'static str,
    /// What comes before a block's names.
    prefix: fn(Place) -> String,
    /// The names in a block that expands its channels, and in one that does not.
    expanding: BlockNames,
    plain: BlockNames,
}

/// The names within a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockNames {
    pub(crate) expand: [&'static str; 2],
    pub(crate) depthwise: [&'static str; 2],
    /// The reducing and the expanding convolution.
    pub(crate) squeeze: [&'static str; 2],
    pub(crate) project: [&'static str; 2],
}

/// Where a block stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) stage: usize,
    /// Within its stage.
    pub(crate) repeat: usize,
    /// Within the network.
    pub(crate) index: usize,
}

impl Naming {
    pub(crate) fn prefix(&self, place: Place) -> String {
        (self.prefix)(place)
    }

    pub(crate) fn block(&self, expands: bool) -> BlockNames {
        if expands { self.expanding } else { self.plain }
    }
}

const NONE: [&str; 2] = ["", ""];

/// torchvision: modules by number.
pub(crate) const TORCHVISION: Naming = Naming {
    stem: ["features.0.0", "features.0.1"],
    head: ["features.8.0", "features.8.1"],
    classifier: "classifier.1",
    prefix: |place| format!("features.{}.{}.block.", place.stage + 1, place.repeat),
    expanding: BlockNames {
        expand: ["0.0", "0.1"],
        depthwise: ["1.0", "1.1"],
        squeeze: ["2.fc1", "2.fc2"],
        project: ["3.0", "3.1"],
    },
    plain: BlockNames {
        expand: NONE,
        depthwise: ["0.0", "0.1"],
        squeeze: ["1.fc1", "1.fc2"],
        project: ["2.0", "2.1"],
    },
};

/// timm.
pub(crate) const TIMM: Naming = Naming {
    stem: ["conv_stem", "bn1"],
    head: ["conv_head", "bn2"],
    classifier: "classifier",
    prefix: |place| format!("blocks.{}.{}.", place.stage, place.repeat),
    expanding: BlockNames {
        expand: ["conv_pw", "bn1"],
        depthwise: ["conv_dw", "bn2"],
        squeeze: ["se.conv_reduce", "se.conv_expand"],
        project: ["conv_pwl", "bn3"],
    },
    plain: BlockNames {
        expand: NONE,
        depthwise: ["conv_dw", "bn1"],
        squeeze: ["se.conv_reduce", "se.conv_expand"],
        project: ["conv_pw", "bn2"],
    },
};

const LITE_BLOCK: BlockNames = BlockNames {
    expand: ["_expand_conv", "_bn0"],
    depthwise: ["_depthwise_conv", "_bn1"],
    squeeze: NONE,
    project: ["_project_conv", "_bn2"],
};

/// The PyTorch editions of EfficientNet-Lite: blocks counted through the whole network.
pub(crate) const LITE: Naming = Naming {
    stem: ["_conv_stem", "_bn0"],
    head: ["_conv_head", "_bn1"],
    classifier: "_fc",
    prefix: |place| format!("_blocks.{}.", place.index),
    expanding: LITE_BLOCK,
    plain: LITE_BLOCK,
};
