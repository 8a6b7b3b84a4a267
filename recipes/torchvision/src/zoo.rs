//! The list of all networks.

use galley_nn::graph::{Builder, Graph, Mistake, Value};

use crate::{
    alexnet::alexnet,
    densenet::densenet,
    googlenet::googlenet,
    inception_v3::inception_v3,
    mnasnet::mnasnet,
    mobilenet_v2::mobilenet_v2,
    resnet::{Block, resnet},
    shufflenet_v2::shufflenet_v2,
    squeezenet::{self, squeezenet},
    vgg::vgg,
};

/// What is to be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pixels down and across.
    pub size: [usize; 2],
    /// Logits.
    pub classes: usize,
    /// Whether to describe the classifiers that are only trained, where a network has such.
    pub auxiliary: bool,
}

/// A network that there is.
pub(crate) struct Listed {
    /// Its name in torchvision.
    pub(crate) name: &'static str,
    /// Its family, as SuperBench groups benchmarks.
    pub(crate) group: &'static str,
    /// What the catalog says of it.
    pub(crate) summary: &'static str,
    layers: fn(&mut Builder, Settings) -> Value,
}

/// Lists networks: a name, its family, what it is called, and its layers.
macro_rules! networks {
    ($($name:literal, $group:literal, $title:literal, |$net:ident, $with:ident| $layers:expr;)*) => {
        [$(Listed {
            name: $name,
            group: $group,
            summary: concat!("image to ImageNet classes: torchvision's ", $title),
            layers: |$net, $with| $layers,
        }),*]
    };
}

fn bottlenecks(groups: usize, width: usize) -> Block {
    Block::Bottleneck { groups, width }
}

/// Every network.
pub(crate) const NETWORKS: [Listed; 35] = networks! {
    "alexnet", "alexnet", "AlexNet", |net, with| alexnet(net, with.classes);
    "densenet121", "densenet", "DenseNet-121", |net, with| densenet(net, (32, 64), [6, 12, 24, 16], with.classes);
    "densenet161", "densenet", "DenseNet-161", |net, with| densenet(net, (48, 96), [6, 12, 36, 24], with.classes);
    "densenet169", "densenet", "DenseNet-169", |net, with| densenet(net, (32, 64), [6, 12, 32, 32], with.classes);
    "densenet201", "densenet", "DenseNet-201", |net, with| densenet(net, (32, 64), [6, 12, 48, 32], with.classes);
    "googlenet", "googlenet", "GoogLeNet", |net, with| googlenet(net, with.auxiliary, with.classes);
    "inception_v3", "inception", "Inception-v3, 299 pixels", |net, with| inception_v3(net, with.auxiliary, with.classes);
    "mnasnet0_5", "mnasnet", "MNASNet 0.5", |net, with| mnasnet(net, 0.5, with.classes);
    "mnasnet0_75", "mnasnet", "MNASNet 0.75", |net, with| mnasnet(net, 0.75, with.classes);
    "mnasnet1_0", "mnasnet", "MNASNet 1.0", |net, with| mnasnet(net, 1.0, with.classes);
    "mnasnet1_3", "mnasnet", "MNASNet 1.3", |net, with| mnasnet(net, 1.3, with.classes);
    "mobilenet_v2", "mobilenet", "MobileNetV2", |net, with| mobilenet_v2(net, with.classes);
    "resnet18", "resnet", "ResNet-18", |net, with| resnet(net, Block::Basic, [2, 2, 2, 2], with.classes);
    "resnet34", "resnet", "ResNet-34", |net, with| resnet(net, Block::Basic, [3, 4, 6, 3], with.classes);
    "resnet50", "resnet", "ResNet-50", |net, with| resnet(net, bottlenecks(1, 64), [3, 4, 6, 3], with.classes);
    "resnet101", "resnet", "ResNet-101", |net, with| resnet(net, bottlenecks(1, 64), [3, 4, 23, 3], with.classes);
    "resnet152", "resnet", "ResNet-152", |net, with| resnet(net, bottlenecks(1, 64), [3, 8, 36, 3], with.classes);
    "resnext50_32x4d", "resnext", "ResNeXt-50 32x4d", |net, with| resnet(net, bottlenecks(32, 4), [3, 4, 6, 3], with.classes);
    "resnext101_32x8d", "resnext", "ResNeXt-101 32x8d", |net, with| resnet(net, bottlenecks(32, 8), [3, 4, 23, 3], with.classes);
    "wide_resnet50_2", "wide_resnet", "Wide ResNet-50-2", |net, with| resnet(net, bottlenecks(1, 128), [3, 4, 6, 3], with.classes);
    "wide_resnet101_2", "wide_resnet", "Wide ResNet-101-2", |net, with| resnet(net, bottlenecks(1, 128), [3, 4, 23, 3], with.classes);
    "shufflenet_v2_x0_5", "shufflenet", "ShuffleNetV2 x0.5", |net, with| shufflenet_v2(net, [48, 96, 192], 1024, with.classes);
    "shufflenet_v2_x1_0", "shufflenet", "ShuffleNetV2 x1.0", |net, with| shufflenet_v2(net, [116, 232, 464], 1024, with.classes);
    "shufflenet_v2_x1_5", "shufflenet", "ShuffleNetV2 x1.5", |net, with| shufflenet_v2(net, [176, 352, 704], 1024, with.classes);
    "shufflenet_v2_x2_0", "shufflenet", "ShuffleNetV2 x2.0", |net, with| shufflenet_v2(net, [244, 488, 976], 2048, with.classes);
    "squeezenet1_0", "squeezenet", "SqueezeNet 1.0", |net, with| squeezenet(net, squeezenet::V1_0, with.classes);
    "squeezenet1_1", "squeezenet", "SqueezeNet 1.1", |net, with| squeezenet(net, squeezenet::V1_1, with.classes);
    "vgg11", "vgg", "VGG-11", |net, with| vgg(net, [1, 1, 2, 2, 2], false, with.classes);
    "vgg11_bn", "vgg", "VGG-11 with BatchNorm", |net, with| vgg(net, [1, 1, 2, 2, 2], true, with.classes);
    "vgg13", "vgg", "VGG-13", |net, with| vgg(net, [2, 2, 2, 2, 2], false, with.classes);
    "vgg13_bn", "vgg", "VGG-13 with BatchNorm", |net, with| vgg(net, [2, 2, 2, 2, 2], true, with.classes);
    "vgg16", "vgg", "VGG-16", |net, with| vgg(net, [2, 2, 3, 3, 3], false, with.classes);
    "vgg16_bn", "vgg", "VGG-16 with BatchNorm", |net, with| vgg(net, [2, 2, 3, 3, 3], true, with.classes);
    "vgg19", "vgg", "VGG-19", |net, with| vgg(net, [2, 2, 4, 4, 4], false, with.classes);
    "vgg19_bn", "vgg", "VGG-19 with BatchNorm", |net, with| vgg(net, [2, 2, 4, 4, 4], true, with.classes);
};

/// The network that torchvision calls so, if it is one of these.
pub(crate) fn find(name: &str) -> Option<&'static Listed> {
    const ALL: &[Listed] = &NETWORKS;
    ALL.iter().find(|listed| listed.name == name)
}

impl Listed {
    /// Its description.
    ///
    /// # Errors
    /// The images are too small for it.
    pub(crate) fn describe(&self, settings: Settings) -> Result<Graph, Mistake> {
        let mut net = Builder::new(3, settings.size);
        let output = (self.layers)(&mut net, settings);
        net.finish(output)
    }
}

/// The network that torchvision calls so, if it is one of these.
///
/// # Errors
/// The images are too small for it.
pub fn describe(name: &str, settings: Settings) -> Option<Result<Graph, Mistake>> {
    find(name).map(|listed| listed.describe(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// torchvision's `num_params`; of the Inceptions without and with what is only trained.
    const PARAMETERS: [(&str, usize); 35] = [
        ("alexnet", 61_100_840),
        ("densenet121", 7_978_856),
        ("densenet161", 28_681_000),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
        ("googlenet", 6_624_904),
        ("inception_v3", 23_834_568),
        ("mnasnet0_5", 2_218_512),
        ("mnasnet0_75", 3_170_208),
        ("mnasnet1_0", 4_383_312),
        ("mnasnet1_3", 6_282_256),
        ("mobilenet_v2", 3_504_872),
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
        ("shufflenet_v2_x0_5", 1_366_792),
        ("shufflenet_v2_x1_0", 2_278_604),
        ("shufflenet_v2_x1_5", 3_503_624),
        ("shufflenet_v2_x2_0", 7_393_996),
        ("squeezenet1_0", 1_248_424),
        ("squeezenet1_1", 1_235_496),
        ("vgg11", 132_863_336),
        ("vgg11_bn", 132_868_840),
        ("vgg13", 133_047_848),
        ("vgg13_bn", 133_053_736),
        ("vgg16", 138_357_544),
        ("vgg16_bn", 138_365_992),
        ("vgg19", 143_667_240),
        ("vgg19_bn", 143_678_248),
    ];

    fn at(side: usize, auxiliary: bool) -> Settings {
        Settings {
            size: [side; 2],
            classes: 1000,
            auxiliary,
        }
    }

    #[test]
    fn networks_have_torchvisions_parameters() {
        for ((name, parameters), listed) in PARAMETERS.into_iter().zip(&NETWORKS) {
            assert_eq!(name, listed.name);
            let graph = describe(name, at(224, false)).unwrap().unwrap();
            assert_eq!(graph.parameter_count(), parameters, "{name}");
            assert_eq!(graph.shape(graph.output()).values(), 1000, "{name}");
        }
    }

    /// Billions for 224 pixels, by a count of the convolutions and matrices of torchvision's definitions.
    const MULTIPLY_ADDS: [f64; 35] = [
        0.714, 2.834, 7.728, 3.360, 4.291, 1.498, 2.838, 0.104, 0.215, 0.314, 0.526, 0.301, 1.814,
        3.664, 4.089, 7.801, 11.514, 4.230, 16.414, 11.398, 22.753, 0.040, 0.145, 0.296, 0.583,
        0.819, 0.349, 7.609, 7.609, 11.308, 11.308, 15.470, 15.470, 19.632, 19.632,
    ];

    #[test]
    fn networks_take_so_many_multiply_adds() {
        for (expected, listed) in MULTIPLY_ADDS.into_iter().zip(&NETWORKS) {
            let graph = listed.describe(at(224, false)).unwrap();
            let billions = graph.multiply_adds() as f64 / 1e9;
            let name = listed.name;
            assert!((billions - expected).abs() < 0.0006, "{name}: {billions}");
        }
    }

    #[test]
    fn what_is_only_trained_is_described_where_it_is_asked_for() {
        for (name, side, parameters, heads) in [
            ("googlenet", 224, 6_624_904 + 6_379_984, 2),
            ("inception_v3", 299, 23_834_568 + 3_326_696, 1),
        ] {
            let graph = describe(name, at(side, true)).unwrap().unwrap();
            assert_eq!(graph.parameter_count(), parameters, "{name}");
            assert_eq!(graph.auxiliary().len(), heads);
        }
        let small = describe("inception_v3", at(224, true))
            .unwrap()
            .unwrap_err();
        assert_eq!(small.layer, "AuxLogits.conv1.conv");
        assert_eq!(small.got, "[128, 3, 3]");
    }

    #[test]
    fn unknown_names_and_images_too_small_are_told() {
        assert!(describe("resnet51", at(224, false)).is_none());
        let small = describe("alexnet", at(31, false)).unwrap().unwrap_err();
        assert_eq!(
            small.to_string().split(':').next(),
            Some("pool after features.10")
        );
    }
}
