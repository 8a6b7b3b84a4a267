//! ResNet (He et al. 2015, with torchvision's stride in the 3x3), ResNeXt (Xie et al. 2016) and Wide ResNet (Zagoruyko and
//! Komodakis 2016).

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::{normed, normed_relu};

/// What stages are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Block {
    /// Two 3x3.
    Basic,
    /// A 3x3, in groups, between two 1x1 of which the last is four times as wide as a stage of `width` 64.
    Bottleneck { groups: usize, width: usize },
}

pub(crate) fn resnet(
    net: &mut Builder,
    block: Block,
    repeats: [usize; 4],
    classes: usize,
) -> Value {
    let stem = Convolution::new(64, 7).stride(2).padding(3);
    let x = normed_relu(net, net.input(), "", ["conv1", "bn1"], stem);
    let mut x = net.pool(x, Pool::max(3).stride(2).padding(1));
    for (stage, repeats) in repeats.into_iter().enumerate() {
        for repeat in 0..repeats {
            let stride = if stage > 0 && repeat == 0 { 2 } else { 1 };
            let at = format!("layer{}.{repeat}", stage + 1);
            x = block.add(net, x, &at, 64 << stage, stride);
        }
    }
    let x = net.mean(x);
    net.linear("fc", x, classes)
}

impl Block {
    fn add(self, net: &mut Builder, x: Value, at: &str, channels: usize, stride: usize) -> Value {
        let three = |channels| Convolution::new(channels, 3).padding(1);
        let y = match self {
            Self::Basic => {
                let y = normed_relu(net, x, at, ["conv1", "bn1"], three(channels).stride(stride));
                normed(net, y, at, ["conv2", "bn2"], three(channels))
            }
            Self::Bottleneck { groups, width } => {
                let wide = channels * width / 64 * groups;
                let y = normed_relu(net, x, at, ["conv1", "bn1"], Convolution::new(wide, 1));
                let filters = three(wide).stride(stride).groups(groups);
                let y = normed_relu(net, y, at, ["conv2", "bn2"], filters);
                normed(
                    net,
                    y,
                    at,
                    ["conv3", "bn3"],
                    Convolution::new(4 * channels, 1),
                )
            }
        };
        let outputs = net.shape(y).channels;
        let shortcut = if stride == 1 && net.shape(x).channels == outputs {
            x
        } else {
            let layer = Convolution::new(outputs, 1).stride(stride);
            normed(net, x, at, ["downsample.0", "downsample.1"], layer)
        };
        let sum = net.sum(y, shortcut);
        net.relu(sum)
    }
}
