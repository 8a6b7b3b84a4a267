//! Shapes, names and mistakes.

use super::*;

#[test]
fn shapes_follow_pytorchs_rules() {
    let pool = Pool::max(3).stride(2).ceil();
    // Sizes that PyTorch's max_pool2d(3, 2, ceil_mode=True) gives.
    for (size, windows) in [
        (112, 56),
        (54, 27),
        (27, 13),
        (3, 1),
        (4, 2),
        (5, 2),
        (6, 3),
    ] {
        assert_eq!(
            pool.window.over([size; 2], true),
            Some([windows; 2]),
            "{size}"
        );
    }
    // The last window would begin in the padding after the image.
    let window = Window::new(2).stride(2).padding(1);
    assert_eq!(window.over([3, 4], true), Some([2, 3]));
    assert_eq!(window.over([3, 4], false), Some([2, 3]));
    assert_eq!(Window::new(2).stride(3).over([3, 6], true), Some([1, 2]));
    assert_eq!(
        Window::new(7).stride(2).padding(3).over([224; 2], false),
        Some([112; 2])
    );
    assert_eq!(
        Window::new([1, 7]).padding([0, 3]).over([17; 2], false),
        Some([17; 2])
    );
    assert_eq!(Window::new(5).over([4, 9], false), None);
}

#[test]
fn windows_know_the_pixels_under_them() {
    let window = Window::new(3).stride(2).padding(1);
    assert_eq!(window.pixels(0, 5, 0), (0..2, 3));
    assert_eq!(window.pixels(0, 5, 2), (3..5, 3));
    // Reaching over the padding, it covers less than its kernel.
    assert_eq!(Window::new(3).stride(2).pixels(0, 6, 2), (4..6, 2));
    let fields: Vec<_> = (0..3).map(|i| window::field(7, 3, i)).collect();
    assert_eq!(fields, [0..3, 2..5, 4..7]);
}

fn mistake(describe: impl Fn(&mut Builder, Value) -> Value) -> String {
    let mut net = Builder::new(3, [8, 6]);
    let x = net.input();
    let x = net.convolution("stem", x, Convolution::new(10, 3));
    let x = describe(&mut net, x);
    // What follows a mistake is not looked at.
    let x = net.convolution("late", x, Convolution::new(7, 99));
    net.finish(x).unwrap_err().to_string()
}

#[test]
fn a_mistake_names_the_layer_and_both_shapes() {
    let other = |net: &mut Builder| {
        let x = net.input();
        net.convolution("side", x, Convolution::new(10, 1))
    };
    for (told, expected) in [
        (
            mistake(|net, x| net.convolution("layer1.conv2", x, Convolution::new(9, 3).groups(3))),
            "layer1.conv2: expected a multiple of 3 channels to make 9 of, got [10, 6, 4]",
        ),
        (
            mistake(|net, x| {
                let y = other(net);
                net.sum(x, y)
            }),
            "sum after stem: expected [10, 6, 4], got [10, 8, 6]",
        ),
        (
            mistake(|net, x| {
                let y = other(net);
                net.concat(&[x, y])
            }),
            "concat after side: expected 6 by 4 pixels, got [10, 8, 6]",
        ),
        (
            mistake(|net, x| net.slice(x, 8, 3)),
            "slice after stem: expected 3 channels from 8 on, got [10, 6, 4]",
        ),
        (
            mistake(|net, x| net.gate(x, x)),
            "gate after stem: expected gates [10, 1, 1], got [10, 6, 4]",
        ),
        (
            mistake(|net, x| net.shuffle(x, 4)),
            "shuffle after stem: expected a multiple of 4 channels, got [10, 6, 4]",
        ),
    ] {
        assert_eq!(told, expected);
    }
    let small = mistake(|net, x| net.pool(x, Pool::max(7)));
    assert!(
        small.starts_with("pool after stem: expected an image that "),
        "{small}"
    );
    assert!(small.ends_with("fits into, got [10, 6, 4]"), "{small}");
    let padded = mistake(|net, x| net.pool(x, Pool::mean(3).padding(2)));
    assert!(padded.contains("half a window"), "{padded}");
}

#[test]
fn parameters_have_a_state_dicts_names_and_shapes() {
    let mut net = Builder::new(4, [5, 5]);
    let x = net.input();
    let x = net.convolution("a", x, Convolution::new(6, [3, 1]).groups(2).biased());
    let x = net.batch_norm("b", x);
    let x = net.relu(x);
    let x = net.linear("c", x, 7);
    let graph = net.finish(x).unwrap();
    let parameters: Vec<_> = graph.parameters().collect();
    let expected = [
        ("a.weight", vec![6, 2, 3, 1]),
        ("a.bias", vec![6]),
        ("b.weight", vec![6]),
        ("b.bias", vec![6]),
        ("c.weight", vec![7, 6 * 3 * 5]),
        ("c.bias", vec![7]),
    ];
    assert_eq!(
        parameters,
        expected.map(|(name, shape)| (name.to_owned(), shape))
    );
    assert_eq!(graph.parameter_count(), 36 + 6 + 12 + 7 * 90 + 7);
}

fn sequence_mistake(mut net: Builder, describe: &dyn Fn(&mut Builder, Value) -> Value) -> String {
    let x = net.input();
    let x = describe(&mut net, x);
    net.finish(x).unwrap_err().to_string()
}

#[test]
fn a_mistake_of_sequences_names_the_layer_too() {
    let rows = || Builder::new(12, [1, 7]);
    let words = Embedding::new;
    let attention = |heads, dropout| Attention {
        heads,
        causal: true,
        dropout,
    };
    let lstm = || Lstm {
        prefix: "cell".into(),
        layer: 0,
    };
    for (told, expected) in [
        (
            sequence_mistake(rows(), &|net, x| {
                net.embedding("words", x, words(9, Row::Id), 4)
            }),
            "words: expected token ids, got [12, 1, 7]",
        ),
        (
            sequence_mistake(Builder::of_ids(7), &|net, x| {
                net.layer_norm("norm", x, 1e-5)
            }),
            "norm: expected features, got token ids",
        ),
        (
            sequence_mistake(Builder::of_ids(7), &|net, x| {
                net.embedding("places", x, words(6, Row::Place), 4)
            }),
            "places: expected 6 tokens at most, got [1, 1, 7]",
        ),
        (
            sequence_mistake(rows(), &|net, x| net.attention(x, attention(3, 0.1))),
            "attention after input: expected queries, keys and values of 3 heads side by side, got [12, 1, 7]",
        ),
        (
            sequence_mistake(rows(), &|net, x| net.attention(x, attention(2, 1.0))),
            "attention after input: expected to keep some of its weights, got [12, 1, 7]",
        ),
        (
            sequence_mistake(Builder::new(12, [2, 7]), &|net, x| net.pick(x, End::First)),
            "pick after input: expected a sequence, and features to make of it, got [12, 2, 7]",
        ),
        (
            sequence_mistake(rows(), &|net, x| net.lstm(lstm(), x, 0)),
            "cell.l0: expected a sequence, and features to make of it, got [12, 1, 7]",
        ),
        (
            sequence_mistake(rows(), &|net, x| {
                let wide = Convolution {
                    window: Window::new([1, 3]),
                    ..Convolution::dense(4, Stored::Linear)
                };
                net.convolution("dense", x, wide)
            }),
            "dense: expected a linear layer for each pixel, not Window { kernel: [1, 3], stride: [1, 1], padding: [0, 0] }, got [12, 1, 7]",
        ),
    ] {
        assert_eq!(told, expected);
    }
}

#[test]
fn sequences_have_a_state_dicts_names_and_shapes() {
    let mut net = Builder::of_ids(5);
    let ids = net.input();
    let words = Embedding::new(11, Row::Id);
    let x = net.embedding("words", ids, words, 8);
    let x = net.layer_norm("norm", x, 1e-5);
    let qkv = net.convolution("qkv", x, Convolution::dense(24, Stored::Conv1d));
    let attention = Attention {
        heads: 2,
        causal: false,
        dropout: 0.1,
    };
    let x = net.attention(qkv, attention);
    let x = net.convolution("out", x, Convolution::dense(6, Stored::Linear));
    let lstm = Lstm {
        prefix: "cell".into(),
        layer: 2,
    };
    let x = net.lstm(lstm, x, 3);
    let x = net.pick(x, End::Last);
    let x = net.linear("head", x, 4);
    let graph = net.finish(x).unwrap();
    let expected = [
        ("words.weight", vec![11, 8]),
        ("norm.weight", vec![8]),
        ("norm.bias", vec![8]),
        ("qkv.weight", vec![8, 24]),
        ("qkv.bias", vec![24]),
        ("out.weight", vec![6, 8]),
        ("out.bias", vec![6]),
        ("cell.weight_ih_l2", vec![12, 6]),
        ("cell.weight_hh_l2", vec![12, 3]),
        ("cell.bias_ih_l2", vec![12]),
        ("cell.bias_hh_l2", vec![12]),
        ("head.weight", vec![4, 3]),
        ("head.bias", vec![4]),
    ];
    let parameters: Vec<_> = graph.parameters().collect();
    assert_eq!(
        parameters,
        expected.map(|(name, shape)| (name.to_owned(), shape))
    );
    assert_eq!(graph.shape(graph.output()).values(), 4);
}
