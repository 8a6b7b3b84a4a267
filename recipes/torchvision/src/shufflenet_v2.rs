//! ShuffleNetV2 (Ma et al. 2018): half of the channels pass a block by, and are shuffled with the others after it.

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::{normed, normed_relu};

const REPEATS: [usize; 3] = [4, 8, 4];

/// Of so many channels in each stage and before the classifier.
pub(crate) fn shufflenet_v2(
    net: &mut Builder,
    stages: [usize; 3],
    last: usize,
    classes: usize,
) -> Value {
    let stem = Convolution::new(24, 3).stride(2).padding(1);
    let x = normed_relu(net, net.input(), "conv1", ["0", "1"], stem);
    let mut x = net.pool(x, Pool::max(3).stride(2).padding(1));
    for (stage, (channels, repeats)) in (2..).zip(stages.into_iter().zip(REPEATS)) {
        for repeat in 0..repeats {
            let at = format!("stage{stage}.{repeat}");
            let half = channels / 2;
            let parts = if repeat == 0 {
                let left = filtered(net, x, &format!("{at}.branch1"), ["0", "1"], 2);
                let names = ["2", "3"];
                let layer = Convolution::new(half, 1);
                let left = normed_relu(net, left, &format!("{at}.branch1"), names, layer);
                [left, branch(net, x, &format!("{at}.branch2"), (half, 2))]
            } else {
                let [left, right] = [0, half].map(|first| net.slice(x, first, half));
                [
                    left,
                    branch(net, right, &format!("{at}.branch2"), (half, 1)),
                ]
            };
            let both = net.concat(&parts);
            x = net.shuffle(both, 2);
        }
    }
    let x = normed_relu(net, x, "conv5", ["0", "1"], Convolution::new(last, 1));
    let x = net.mean(x);
    net.linear("fc", x, classes)
}

fn branch(net: &mut Builder, x: Value, at: &str, (channels, stride): (usize, usize)) -> Value {
    let x = normed_relu(net, x, at, ["0", "1"], Convolution::new(channels, 1));
    let x = filtered(net, x, at, ["3", "4"], stride);
    normed_relu(net, x, at, ["5", "6"], Convolution::new(channels, 1))
}

/// A 3x3 filter for each channel.
fn filtered(net: &mut Builder, x: Value, at: &str, names: [&str; 2], stride: usize) -> Value {
    let channels = net.shape(x).channels;
    let layer = Convolution::new(channels, 3)
        .stride(stride)
        .padding(1)
        .groups(channels);
    normed(net, x, at, names, layer)
}
