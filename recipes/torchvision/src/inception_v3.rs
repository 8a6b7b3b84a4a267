//! Inception-v3 (Szegedy et al. 2015). Its modules differ in what they factor larger convolutions into.

use galley_nn::graph::{Builder, Convolution, Pool, Value};

use crate::layers::{basic, within};

/// What the classifier that is trained besides counts, as PyTorch's tutorial on it has it.
const AUXILIARY: f64 = 0.4;

/// `auxiliary` adds the classifier that is trained besides, which images below 299 pixels are too small for.
pub(crate) fn inception_v3(net: &mut Builder, auxiliary: bool, classes: usize) -> Value {
    let pool = Pool::max(3).stride(2);
    let x = basic(
        net,
        net.input(),
        "Conv2d_1a_3x3",
        Convolution::new(32, 3).stride(2),
    );
    let x = basic(net, x, "Conv2d_2a_3x3", Convolution::new(32, 3));
    let x = basic(net, x, "Conv2d_2b_3x3", Convolution::new(64, 3).padding(1));
    let x = net.pool(x, pool.clone());
    let x = basic(net, x, "Conv2d_3b_1x1", Convolution::new(80, 1));
    let x = basic(net, x, "Conv2d_4a_3x3", Convolution::new(192, 3));
    let mut x = net.pool(x, pool);
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = mixed_5(net, x, name, pooled);
    }
    x = reduced_6(net, x, "Mixed_6a");
    for (name, within) in [
        ("Mixed_6b", 128),
        ("Mixed_6c", 160),
        ("Mixed_6d", 160),
        ("Mixed_6e", 192),
    ] {
        x = mixed_6(net, x, name, within);
    }
    if auxiliary {
        classifier(net, x, classes);
    }
    x = reduced_7(net, x, "Mixed_7a");
    for name in ["Mixed_7b", "Mixed_7c"] {
        x = mixed_7(net, x, name);
    }
    let x = net.mean(x);
    let x = net.dropout(x, 0.5);
    net.linear("fc", x, classes)
}

fn square(channels: usize, kernel: usize) -> Convolution {
    Convolution::new(channels, kernel).padding(kernel / 2)
}

fn across(channels: usize, kernel: usize) -> Convolution {
    Convolution::new(channels, [1, kernel]).padding([0, kernel / 2])
}

fn down(channels: usize, kernel: usize) -> Convolution {
    Convolution::new(channels, [kernel, 1]).padding([kernel / 2, 0])
}

/// Halves the image.
fn halved(channels: usize) -> Convolution {
    Convolution::new(channels, 3).stride(2)
}

/// Convolutions one after the other.
fn chain<const N: usize>(
    net: &mut Builder,
    mut x: Value,
    at: &str,
    layers: [(&str, Convolution); N],
) -> Value {
    for (name, layer) in layers {
        x = basic(net, x, &within(at, name), layer);
    }
    x
}

/// A mean of all pixels' neighbours, and a 1x1.
fn pooled(net: &mut Builder, x: Value, at: &str, channels: usize) -> Value {
    let x = net.pool(x, Pool::mean(3).padding(1));
    chain(net, x, at, [("branch_pool", square(channels, 1))])
}

fn mixed_5(net: &mut Builder, x: Value, at: &str, pool: usize) -> Value {
    let one = chain(net, x, at, [("branch1x1", square(64, 1))]);
    let five = [
        ("branch5x5_1", square(48, 1)),
        ("branch5x5_2", square(64, 5)),
    ];
    let five = chain(net, x, at, five);
    let double = [
        ("branch3x3dbl_1", square(64, 1)),
        ("branch3x3dbl_2", square(96, 3)),
        ("branch3x3dbl_3", square(96, 3)),
    ];
    let double = chain(net, x, at, double);
    let pool = pooled(net, x, at, pool);
    net.concat(&[one, five, double, pool])
}

fn reduced_6(net: &mut Builder, x: Value, at: &str) -> Value {
    let three = chain(net, x, at, [("branch3x3", halved(384))]);
    let double = [
        ("branch3x3dbl_1", square(64, 1)),
        ("branch3x3dbl_2", square(96, 3)),
        ("branch3x3dbl_3", halved(96)),
    ];
    let double = chain(net, x, at, double);
    let pool = net.pool(x, Pool::max(3).stride(2));
    net.concat(&[three, double, pool])
}

fn mixed_6(net: &mut Builder, x: Value, at: &str, narrow: usize) -> Value {
    let one = chain(net, x, at, [("branch1x1", square(192, 1))]);
    let seven = [
        ("branch7x7_1", square(narrow, 1)),
        ("branch7x7_2", across(narrow, 7)),
        ("branch7x7_3", down(192, 7)),
    ];
    let seven = chain(net, x, at, seven);
    let double = [
        ("branch7x7dbl_1", square(narrow, 1)),
        ("branch7x7dbl_2", down(narrow, 7)),
        ("branch7x7dbl_3", across(narrow, 7)),
        ("branch7x7dbl_4", down(narrow, 7)),
        ("branch7x7dbl_5", across(192, 7)),
    ];
    let double = chain(net, x, at, double);
    let pool = pooled(net, x, at, 192);
    net.concat(&[one, seven, double, pool])
}

fn reduced_7(net: &mut Builder, x: Value, at: &str) -> Value {
    let three = [
        ("branch3x3_1", square(192, 1)),
        ("branch3x3_2", halved(320)),
    ];
    let three = chain(net, x, at, three);
    let seven = [
        ("branch7x7x3_1", square(192, 1)),
        ("branch7x7x3_2", across(192, 7)),
        ("branch7x7x3_3", down(192, 7)),
        ("branch7x7x3_4", halved(192)),
    ];
    let seven = chain(net, x, at, seven);
    let pool = net.pool(x, Pool::max(3).stride(2));
    net.concat(&[three, seven, pool])
}

fn mixed_7(net: &mut Builder, x: Value, at: &str) -> Value {
    let one = chain(net, x, at, [("branch1x1", square(320, 1))]);
    let y = chain(net, x, at, [("branch3x3_1", square(384, 1))]);
    let three = [
        ("branch3x3_2a", across(384, 3)),
        ("branch3x3_2b", down(384, 3)),
    ]
    .map(|layer| chain(net, y, at, [layer]));
    let double = [
        ("branch3x3dbl_1", square(448, 1)),
        ("branch3x3dbl_2", square(384, 3)),
    ];
    let y = chain(net, x, at, double);
    let double = [
        ("branch3x3dbl_3a", across(384, 3)),
        ("branch3x3dbl_3b", down(384, 3)),
    ]
    .map(|layer| chain(net, y, at, [layer]));
    let pool = pooled(net, x, at, 192);
    net.concat(&[one, three[0], three[1], double[0], double[1], pool])
}

fn classifier(net: &mut Builder, x: Value, classes: usize) {
    let x = net.pool(x, Pool::mean(5).stride(3));
    let layers = [
        ("conv0", Convolution::new(128, 1)),
        ("conv1", Convolution::new(768, 5)),
    ];
    let x = chain(net, x, "AuxLogits", layers);
    let x = net.mean(x);
    let x = net.linear("AuxLogits.fc", x, classes);
    net.auxiliary(x, AUXILIARY);
}
