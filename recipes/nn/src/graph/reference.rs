//! A graph layer by layer, in the plainest way and in f64: what everything fast is held against.

use super::{Activation, Graph, Node, Op, Pool, Reduction, Shape, Value, window};

/// A tensor by name and shape.
pub(crate) type Weights<'a> = dyn Fn(&str, &[usize]) -> Vec<f64> + 'a;

/// What a graph gives for an image, `[channels, height, width]`.
pub(crate) fn run(graph: &Graph, image: &[f64], weights: &Weights<'_>) -> Vec<f64> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for node in graph.nodes() {
        let inputs = |i: usize| -> (&[f64], Shape) {
            let value: Value = node.inputs[i];
            (&values[value.index()], graph.shape(value))
        };
        let result = match &node.op {
            Op::Input => image.to_vec(),
            Op::Concat => (0..node.inputs.len())
                .flat_map(|i| inputs(i).0.to_vec())
                .collect(),
            op => layer(node, op, &inputs, weights),
        };
        assert_eq!(result.len(), node.shape.values(), "{}", node.name);
        values.push(result);
    }
    values.swap_remove(graph.output().index())
}

fn layer<'a>(
    node: &Node,
    op: &Op,
    inputs: &dyn Fn(usize) -> (&'a [f64], Shape),
    weights: &Weights<'_>,
) -> Vec<f64> {
    let (x, from) = inputs(0);
    let shape = node.shape;
    let tensor = |part: &str, shape: &[usize]| weights(&format!("{}.{part}", node.name), shape);
    let channel = |i: usize| &x[i * from.pixels()..][..from.pixels()];
    match op {
        Op::Input | Op::Concat => unreachable!("they are not layers of one input"),
        Op::Ids
        | Op::Embedding(_)
        | Op::LayerNorm { .. }
        | Op::Attention(_)
        | Op::Lstm(_)
        | Op::Pick(_) => unreachable!("sequences are not fused: see `crate::train`"),
        Op::Convolution(_) => convolution(node, x, from, &tensor),
        Op::BatchNorm { eps } => {
            let part = |name| tensor(name, &[shape.channels]);
            let [scale, shift, mean, variance] =
                ["weight", "bias", "running_mean", "running_var"].map(part);
            let normal =
                |i: usize, x: f64| (x - mean[i]) / (variance[i] + eps).sqrt() * scale[i] + shift[i];
            let index = x.iter().enumerate();
            index.map(|(i, x)| normal(i / shape.pixels(), *x)).collect()
        }
        Op::Activation(activation) => x.iter().map(|x| activate(*activation, *x)).collect(),
        Op::Pool(pool) => fields(
            x,
            [from, shape],
            |y, x| {
                let (down, tall) = pool.window.pixels(0, from.height, y);
                let (across, wide) = pool.window.pixels(1, from.width, x);
                (down, across, tall * wide)
            },
            Some(pool),
        ),
        Op::AdaptiveMean => fields(
            x,
            [from, shape],
            |y, x| {
                let down = window::field(from.height, shape.height, y);
                let across = window::field(from.width, shape.width, x);
                let count = down.len() * across.len();
                (down, across, count)
            },
            None,
        ),
        Op::Linear => {
            let weight = tensor("weight", &[shape.channels, from.values()]);
            let bias = tensor("bias", &[shape.channels]);
            let rows = weight.chunks_exact(from.values()).zip(bias);
            rows.map(|(row, bias)| bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
                .collect()
        }
        Op::Add => x.iter().zip(inputs(1).0).map(|(a, b)| a + b).collect(),
        Op::Slice { first } => (*first..first + shape.channels)
            .flat_map(|i| channel(i).to_vec())
            .collect(),
        Op::Shuffle { groups } => {
            let each = shape.channels / groups;
            (0..shape.channels)
                .flat_map(|i| channel(i % groups * each + i / groups).to_vec())
                .collect()
        }
        Op::Gate => {
            let gates = inputs(1).0;
            x.iter()
                .enumerate()
                .map(|(i, x)| x * gates[i / from.pixels()])
                .collect()
        }
        Op::Dropout { .. } => x.to_vec(),
    }
}

fn convolution(
    node: &Node,
    x: &[f64],
    from: Shape,
    tensor: &dyn Fn(&str, &[usize]) -> Vec<f64>,
) -> Vec<f64> {
    let Op::Convolution(convolution) = &node.op else {
        unreachable!("it is a convolution")
    };
    let shape = node.shape;
    let window = convolution.window;
    let ([kh, kw], inputs) = (window.kernel, from.channels / convolution.groups);
    let weight = tensor("weight", &[shape.channels, inputs, kh, kw]);
    let bias = if convolution.bias {
        tensor("bias", &[shape.channels])
    } else {
        vec![0.0; shape.channels]
    };
    let mut result = Vec::new();
    for output in 0..shape.channels {
        let first = output / (shape.channels / convolution.groups) * inputs;
        for y in 0..shape.height {
            for column in 0..shape.width {
                let mut sum = bias[output];
                for tap in 0..inputs * kh * kw {
                    let (input, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
                    let row = (y * window.stride[0] + ky).checked_sub(window.padding[0]);
                    let line = (column * window.stride[1] + kx).checked_sub(window.padding[1]);
                    if let (Some(row), Some(line)) = (row, line)
                        && row < from.height
                        && line < from.width
                    {
                        let at = ((first + input) * from.height + row) * from.width + line;
                        sum += x[at] * weight[output * inputs * kh * kw + tap];
                    }
                }
                result.push(sum);
            }
        }
    }
    result
}

/// The pixels down and across that are reduced to one, and what a mean divides by.
type Field = (std::ops::Range<usize>, std::ops::Range<usize>, usize);

fn fields(
    x: &[f64],
    [from, to]: [Shape; 2],
    field: impl Fn(usize, usize) -> Field,
    pool: Option<&Pool>,
) -> Vec<f64> {
    let mut result = Vec::new();
    for channel in x.chunks_exact(from.pixels()) {
        for y in 0..to.height {
            for column in 0..to.width {
                let (down, across, count) = field(y, column);
                let inside = down.len() * across.len();
                let values =
                    down.flat_map(|y| across.clone().map(move |x| channel[y * from.width + x]));
                result.push(match pool.map(|pool| pool.reduction) {
                    Some(Reduction::Max) => values.fold(f64::NEG_INFINITY, f64::max),
                    Some(Reduction::Mean {
                        count_padding: false,
                    }) => values.sum::<f64>() / inside as f64,
                    _ => values.sum::<f64>() / count as f64,
                });
            }
        }
    }
    result
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Gelu | Activation::GeluTanh => f64::from(activation.of(x as f32)),
    }
}
