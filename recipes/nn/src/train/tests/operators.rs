//! Each operator by itself, between layers that are trained: fast, in the plainest way, and by differences.

use super::{Case, check_on_device, descent, gradients::check_by_differences, kept, steps::worst};
use crate::graph::{Activation, Builder, Convolution, Graph, Pool, Reduction, Value};

/// An operator between two layers with weights.
fn around(
    [channels, height, width]: [usize; 3],
    operator: &dyn Fn(&mut Builder, Value) -> Value,
) -> Graph {
    let mut net = Builder::new(3, [height, width]);
    let stem = Convolution::new(channels, 1).biased();
    let x = net.convolution("stem", net.input(), stem);
    let x = operator(&mut net, x);
    let x = net.linear("fc", x, 4);
    net.finish(x).unwrap()
}

fn check(shape: [usize; 3], operator: &dyn Fn(&mut Builder, Value) -> Value) {
    let graph = around(shape, operator);
    check_by_differences(graph.clone(), 3, 11, &kept);
    let case = Case::new(graph, 3, 11);
    let mut trainer = case.trainer(&descent(0.1, None));
    trainer.step(&case.input, &case.labels).unwrap();
    let expected = case.reference(&case.numbers(), &kept);
    let (off, name) = worst(&mut trainer, &expected);
    assert!(
        off < 1e-4,
        "{shape:?}, {name}: off by {off}\n{:#?}",
        case.graph
    );
    check_on_device(&format!("{:#?}", case.graph), &case, None, &expected);
}

#[test]
fn convolutions() {
    let layer = |inputs: usize, layer: Convolution| {
        check([inputs, 7, 9], &|net, x| {
            net.convolution("layer", x, layer.clone())
        });
    };
    layer(5, Convolution::new(7, 1));
    layer(5, Convolution::new(7, 1).stride(2).biased());
    layer(4, Convolution::new(6, 3).padding(1).biased());
    layer(4, Convolution::new(6, 3).stride(2).padding(1));
    layer(4, Convolution::new(6, 5).stride(3).padding(2));
    layer(4, Convolution::new(6, 7).stride(2).padding(3));
    layer(3, Convolution::new(4, [1, 7]).padding([0, 3]));
    layer(
        3,
        Convolution::new(4, [4, 2])
            .stride([3, 1])
            .padding([1, 0])
            .biased(),
    );
    // A stride beyond the kernel: some pixels are nobody's.
    layer(3, Convolution::new(4, 2).stride(3));
    layer(8, Convolution::new(12, 3).padding(1).groups(4));
    layer(8, Convolution::new(8, 3).stride(2).padding(1).groups(8));
    layer(20, Convolution::new(20, 5).padding(2).groups(20).biased());
    layer(6, Convolution::new(12, 3).padding(1).groups(6));
}

#[test]
fn norms() {
    for activation in [
        None,
        Some(Activation::Relu),
        Some(Activation::Relu6),
        Some(Activation::Silu),
    ] {
        for residual in [false, true] {
            check([20, 5, 4], &|net, x| {
                let side = net.convolution("side", x, Convolution::new(20, 1));
                let x = net.batch_norm_with("norm", x, 1e-3);
                let x = if residual {
                    net.sum(side, x)
                } else {
                    net.sum(x, x)
                };
                activation.map_or(x, |activation| net.activation(x, activation))
            });
        }
        // What is added is what was normed, or is needed once more.
        check([5, 4, 4], &|net, x| {
            let y = net.batch_norm("norm", x);
            let y = net.sum(y, x);
            let y = activation.map_or(y, |activation| net.activation(y, activation));
            net.concat(&[x, y])
        });
    }
}

#[test]
fn activations() {
    for activation in [
        Activation::Relu,
        Activation::Relu6,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Silu,
    ] {
        check([19, 3, 5], &|net, x| net.activation(x, activation));
        check([19, 3, 5], &|net, x| {
            let y = net.activation(x, activation);
            net.sum(y, x)
        });
    }
}

#[test]
fn pools() {
    let mean = |count_padding, pool: Pool| Pool {
        reduction: Reduction::Mean { count_padding },
        ..pool
    };
    for pool in [
        Pool::max(2).stride(2),
        Pool::max(3).stride(2).padding(1),
        Pool::max(3).stride(2).ceil(),
        Pool::max(3).padding(1),
        Pool::max([3, 2]).stride([1, 3]).padding([1, 0]).ceil(),
    ] {
        for pool in [
            mean(true, pool.clone()),
            mean(false, pool.clone()),
            pool.clone(),
        ] {
            check([19, 7, 8], &|net, x| net.pool(x, pool.clone()));
            // Many values are equal.
            check([5, 7, 8], &|net, x| {
                let x = net.relu(x);
                let y = net.pool(x, pool.clone());
                let y = net.mean(y);
                let x = net.mean(x);
                net.sum(x, y)
            });
        }
    }
    for fields in [[1, 1], [3, 2], [7, 8], [9, 10]] {
        check([70, 7, 8], &|net, x| net.adaptive_mean(x, fields));
    }
}

#[test]
fn channels_that_are_moved() {
    check([12, 3, 4], &|net, x| net.shuffle(x, 3));
    check([12, 3, 4], &|net, x| {
        let left = net.slice(x, 0, 5);
        let right = net.slice(x, 5, 7);
        let right = net.relu(right);
        net.concat(&[right, left, x, x])
    });
    check([12, 3, 4], &|net, x| {
        let y = net.slice(x, 3, 4);
        let z = net.shuffle(x, 2);
        let z = net.slice(z, 8, 4);
        net.sum(y, z)
    });
}

#[test]
fn sums_and_gates() {
    check([9, 3, 4], &|net, x| net.sum(x, x));
    check([9, 3, 4], &|net, x| {
        let y = net.relu(x);
        let z = net.sum(x, y);
        let z = net.sum(z, x);
        net.sum(z, y)
    });
    check([18, 3, 4], &|net, x| {
        let gates = net.mean(x);
        let gates = net.activation(gates, Activation::Sigmoid);
        net.gate(x, gates)
    });
    check([18, 1, 1], &|net, x| net.gate(x, x));
}

/// Each loss by its weight, on layers that share what is before them.
#[test]
fn auxiliary_losses() {
    let mut net = Builder::new(3, [5, 4]);
    let x = net.convolution("stem", net.input(), Convolution::new(6, 3));
    let x = net.batch_norm("norm", x);
    let x = net.relu(x);
    let first = net.linear("first", x, 4);
    net.auxiliary(first, 0.3);
    let x = net.convolution("more", x, Convolution::new(6, 1));
    let second = net.linear("second", x, 4);
    net.auxiliary(second, 0.4);
    let x = net.mean(x);
    let x = net.linear("fc", x, 4);
    let graph = net.finish(x).unwrap();
    check_by_differences(graph.clone(), 3, 11, &kept);
    let case = Case::new(graph, 3, 11);
    let mut trainer = case.trainer(&descent(0.1, None));
    let loss = trainer.step(&case.input, &case.labels).unwrap().loss;
    let expected = case.reference(&case.numbers(), &kept);
    assert!(
        (loss - expected.loss).abs() < 1e-5,
        "{loss}, expected {}",
        expected.loss
    );
    let (off, name) = worst(&mut trainer, &expected);
    assert!(off < 1e-4, "{name}: off by {off}");
}
