//! GoogLeNet (Szegedy et al. 2014), as torchvision has it: with BatchNorm, and 3x3 convolutions where the paper has 5x5.

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::{basic, within};

/// Of each module: its 1x1; the 3x3 and what leads to it; the one that was a 5x5, likewise; and what follows its pool.
const MODULES: [(&str, [usize; 6]); 9] = [
    ("inception3a", [64, 96, 128, 16, 32, 32]),
    ("inception3b", [128, 128, 192, 32, 96, 64]),
    ("inception4a", [192, 96, 208, 16, 48, 64]),
    ("inception4b", [160, 112, 224, 24, 64, 64]),
    ("inception4c", [128, 128, 256, 24, 64, 64]),
    ("inception4d", [112, 144, 288, 32, 64, 64]),
    ("inception4e", [256, 160, 320, 32, 128, 128]),
    ("inception5a", [256, 160, 320, 32, 128, 128]),
    ("inception5b", [384, 192, 384, 48, 128, 128]),
];

/// What a classifier that is trained besides counts, in the paper and in torchvision's references.
const AUXILIARY: f64 = 0.3;

/// `auxiliary` adds the two classifiers that are trained besides.
pub(crate) fn googlenet(net: &mut Builder, auxiliary: bool, classes: usize) -> Value {
    let pool = Pool::max(3).stride(2).ceil();
    let stem = Convolution::new(64, 7).stride(2).padding(3);
    let x = basic(net, net.input(), "conv1", stem);
    let x = net.pool(x, pool.clone());
    let x = basic(net, x, "conv2", Convolution::new(64, 1));
    let x = basic(net, x, "conv3", Convolution::new(192, 3).padding(1));
    let mut x = net.pool(x, pool.clone());
    for (name, channels) in MODULES {
        x = match name {
            "inception4a" => net.pool(x, pool.clone()),
            "inception5a" => net.pool(x, Pool::max(2).stride(2).ceil()),
            _ => x,
        };
        x = inception(net, x, name, channels);
        match name {
            "inception4a" if auxiliary => classifier(net, x, "aux1", classes),
            "inception4d" if auxiliary => classifier(net, x, "aux2", classes),
            _ => (),
        }
    }
    let x = net.mean(x);
    let x = net.dropout(x, 0.2);
    net.linear("fc", x, classes)
}

fn inception(net: &mut Builder, x: Value, at: &str, channels: [usize; 6]) -> Value {
    let [one, to_three, three, to_five, five, pooled] = channels;
    let name = |part| within(at, part);
    let first = basic(net, x, &name("branch1"), Convolution::new(one, 1));
    let y = basic(net, x, &name("branch2.0"), Convolution::new(to_three, 1));
    let second = basic(
        net,
        y,
        &name("branch2.1"),
        Convolution::new(three, 3).padding(1),
    );
    let y = basic(net, x, &name("branch3.0"), Convolution::new(to_five, 1));
    let third = basic(
        net,
        y,
        &name("branch3.1"),
        Convolution::new(five, 3).padding(1),
    );
    let y = net.pool(x, Pool::max(3).padding(1).ceil());
    let fourth = basic(net, y, &name("branch4.1"), Convolution::new(pooled, 1));
    net.concat(&[first, second, third, fourth])
}

fn classifier(net: &mut Builder, x: Value, at: &str, classes: usize) {
    let x = net.adaptive_mean(x, [4, 4]);
    let x = basic(net, x, &within(at, "conv"), Convolution::new(128, 1));
    let x = net.linear(&within(at, "fc1"), x, 1024);
    let x = net.relu(x);
    let x = net.dropout(x, 0.7);
    let x = net.linear(&within(at, "fc2"), x, classes);
    net.auxiliary(x, AUXILIARY);
}
