//! Against plain loops in f64, at every level.

use super::*;
use crate::host::tests::{flat, random};

/// A layer, the channels that it takes, the images' size and how many there are.
struct Case {
    layer: Convolution,
    from: Shape,
    to: Shape,
    images: usize,
}

impl Case {
    fn new(
        layer: Convolution,
        channels: usize,
        [height, width]: [usize; 2],
        images: usize,
    ) -> Self {
        let [rows, columns] = layer.window.over([height, width], false).unwrap();
        Self {
            from: Shape {
                channels,
                height,
                width,
            },
            to: Shape {
                channels: layer.outputs,
                height: rows,
                width: columns,
            },
            layer,
            images,
        }
    }
}

fn cases() -> Vec<Case> {
    let of = |outputs, kernel: usize| Convolution::new(outputs, kernel);
    let case = Case::new;
    let mut cases = vec![
        // One pixel for each.
        case(of(7, 1), 5, [3, 4], 3),
        case(of(33, 1), 19, [1, 1], 1),
        case(of(64, 1), 40, [9, 11], 3),
        case(of(16, 1), 70, [14, 14], 1),
        case(of(40, 1).stride(2), 19, [7, 7], 3),
        case(of(10, 1).stride([2, 3]), 8, [5, 8], 1),
        case(of(9, 1).padding([0, 1]), 8, [5, 4], 1),
        // Windows.
        case(of(24, 3).padding(1), 15, [9, 14], 3),
        case(of(48, 3).padding(1), 32, [7, 7], 3),
        case(of(32, 3).padding(1), 16, [28, 30], 1),
        case(of(40, 3).padding(1), 33, [26, 25], 2),
        case(of(21, 3), 49, [5, 6], 1),
        case(of(16, 3).padding(2), 17, [4, 5], 1),
        case(of(33, 3).stride(2).padding(1), 20, [8, 9], 3),
        case(of(16, 3).stride(2).padding(1), 12, [1, 1], 3),
        case(of(16, 3).stride(2), 12, [7, 12], 1),
        case(of(11, 3).stride(3).padding(1), 9, [10, 7], 1),
        case(Convolution::new(24, [1, 7]).padding([0, 3]), 10, [6, 9], 3),
        case(Convolution::new(24, [7, 1]).padding([3, 0]), 10, [9, 6], 1),
        case(
            Convolution::new(9, [4, 2]).stride([3, 1]).padding([1, 0]),
            6,
            [9, 14],
            1,
        ),
        case(of(20, 5).padding(2), 9, [7, 7], 1),
        case(of(18, 5).stride(2).padding(4), 9, [6, 7], 1),
        case(of(16, 7).stride(2).padding(3), 3, [20, 22], 3),
        case(of(24, 11).stride(4).padding(2), 3, [31, 35], 3),
        // A window that is the whole image.
        case(Convolution::new(50, [3, 4]), 12, [3, 4], 3),
        // Enough pixels for several parts of them.
        case(of(16, 1), 24, [64, 65], 1),
        case(of(16, 3).padding(1), 8, [40, 60], 2),
        // By squares: several parts, several channels' shares, and every padding.
        case(of(17, 3).padding(1), 16, [58, 61], 1),
        case(of(70, 3), 80, [34, 37], 1),
        case(of(40, 3).padding(2), 19, [20, 18], 3),
        case(of(16, 3).padding([0, 1]), 16, [33, 34], 1),
        // Groups.
        case(of(64, 3).padding(1).groups(32), 64, [7, 6], 3),
        case(of(128, 3).stride(2).padding(1).groups(32), 256, [6, 7], 1),
        case(of(96, 3).padding(1).groups(2), 64, [5, 5], 1),
        case(of(10, 3).groups(5), 15, [5, 5], 1),
        case(of(24, 1).groups(4), 12, [4, 4], 3),
        case(of(24, 3).groups(12), 12, [4, 6], 1),
    ];
    // Depthwise.
    for kernel in [3, 5] {
        for stride in [1, 2] {
            for (channels, size) in [(5, [9, 12]), (32, [7, 7]), (70, [1, 2]), (16, [13, 30])] {
                let layer = of(channels, kernel).stride(stride).padding(kernel / 2);
                cases.push(case(layer.groups(channels), channels, size, 3));
            }
        }
    }
    cases.push(case(of(20, 3).groups(20), 20, [6, 7], 1));
    cases.push(case(
        Convolution::new(20, [2, 4]).padding([1, 3]).groups(20),
        20,
        [6, 7],
        1,
    ));
    cases.push(case(
        of(20, 7).stride(3).padding(3).groups(20),
        20,
        [8, 9],
        1,
    ));
    cases
}

/// A sum, and that of its terms' sizes.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    size: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        self.value += term;
        self.size += term.abs();
    }
}

/// How far a sum may be off, in parts of its terms' sizes.
const TOLERANCE: f64 = 2e-6;
/// The same where squares are transformed, which lose a little of all terms of a square.
const OF_SQUARES: f64 = 6e-6;

fn close(what: &str, got: &[f32], expected: &[Sum], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, Sum { value, size })) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - value).abs();
        assert!(
            error <= tolerance * (1.0 + size),
            "{what}: value {i} is {got}, expected {value}"
        );
    }
}

impl Case {
    /// Calls `each(weight, x, y)` for all that is multiplied.
    fn each(&self, mut each: impl FnMut(usize, usize, usize)) {
        let Self {
            from, to, layer, ..
        } = self;
        let window = layer.window;
        let [down, across] = window.kernel;
        let [inputs, outputs] = [from.channels, to.channels].map(|all| all / layer.groups);
        for image in 0..self.images {
            for (row, column) in (0..to.height).flat_map(|y| (0..to.width).map(move |x| (y, x))) {
                for (ky, kx) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
                    let y = (row * window.stride[0] + ky).wrapping_sub(window.padding[0]);
                    let x = (column * window.stride[1] + kx).wrapping_sub(window.padding[1]);
                    if y >= from.height || x >= from.width {
                        continue;
                    }
                    for output in 0..to.channels {
                        for input in 0..inputs {
                            let group = output / outputs;
                            each(
                                (output * inputs + input) * down * across + ky * across + kx,
                                ((image * from.height + y) * from.width + x) * from.channels
                                    + group * inputs
                                    + input,
                                ((image * to.height + row) * to.width + column) * to.channels
                                    + output,
                            );
                        }
                    }
                }
            }
        }
    }

    fn check(&self) {
        let Self {
            layer,
            from,
            to,
            images,
        } = self;
        let taps = layer.window.kernel[0] * layer.window.kernel[1];
        let weights = to.channels * from.channels / layer.groups * taps;
        let weight = flat(&random(&[weights], 1));
        let bias = flat(&random(&[to.channels], 2));
        let x = flat(&random(&[images * from.values()], 3));
        let dy = flat(&random(&[images * to.values()], 4));
        let before = flat(&random(&[x.len()], 5));

        let [mut y, mut dx, mut dw, mut db] =
            [dy.len(), x.len(), weights, bias.len()].map(|len| vec![Sum::default(); len]);
        self.each(|w, i, o| {
            let [weight, x, dy] = [weight[w], x[i], dy[o]].map(f64::from);
            y[o].add(weight * x);
            dx[i].add(weight * dy);
            dw[w].add(x * dy);
        });
        for (i, dy) in dy.iter().enumerate() {
            y[i].add(f64::from(bias[i % bias.len()]));
            db[i % bias.len()].add(f64::from(*dy));
        }
        let added: Vec<Sum> = (dx.iter().zip(&before))
            .map(|(dx, before)| {
                let mut sum = *dx;
                sum.add(f64::from(*before));
                sum
            })
            .collect();

        let mut trained = Trained::new(layer, *from, *to, *images);
        let tolerance = match trained.squares {
            Some(_) => OF_SQUARES,
            None => TOLERANCE,
        };
        for level in Level::all() {
            let what = |what: &str| format!("{what}, {level:?}, {layer:?} of {images} {from:?}");
            let mut got = vec![f32::NAN; y.len()];
            trained.forward(level, &weight, Some(&bias), &x, &mut got);
            close(&what("output"), &got, &y, tolerance);
            let mut got = vec![f32::NAN; dx.len()];
            trained.backward_input(level, &weight, &dy, &mut got, Onto::Write);
            close(&what("input's gradient"), &got, &dx, tolerance);
            let mut got = before.clone();
            trained.backward_input(level, &weight, &dy, &mut got, Onto::Add);
            close(&what("input's gradient, added"), &got, &added, tolerance);
            let (mut got, mut got_bias) = (vec![f32::NAN; weights], vec![f32::NAN; bias.len()]);
            trained.backward_weight(level, &x, &dy, &mut got, Some(&mut got_bias));
            close(&what("weight's gradient"), &got, &dw, tolerance);
            close(&what("bias' gradient"), &got_bias, &db, tolerance);
            let mut again = vec![f32::NAN; weights];
            trained.backward_weight(level, &x, &dy, &mut again, None);
            assert_eq!(again, got, "{}", what("the same again"));
        }
    }
}

#[test]
fn values_and_gradients_are_those_of_plain_loops() {
    for case in cases() {
        case.check();
    }
}

#[test]
fn sums_do_not_depend_on_the_threads() {
    let case = Case::new(Convolution::new(16, 3).padding(1), 8, [40, 60], 2);
    let x = flat(&random(&[case.images * case.from.values()], 1));
    let dy = flat(&random(&[case.images * case.to.values()], 2));
    let gradient = |threads: usize| {
        let mut trained = Trained::new(&case.layer, case.from, case.to, case.images);
        let mut dw = vec![f32::NAN; 16 * 8 * 9];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| trained.backward_weight(Level::detect(), &x, &dy, &mut dw, None));
        dw
    };
    assert_eq!(gradient(1), gradient(5));
}

#[test]
fn phases_share_the_taps() {
    let shape = |height, width| Shape {
        channels: 1,
        height,
        width,
    };
    let window = Convolution::new(1, [5, 3])
        .stride([2, 4])
        .padding([2, 1])
        .window;
    let phases = Sweep::backward(&window, shape(9, 9), shape(5, 3), 1);
    let mut taps: Vec<usize> = phases.iter().flat_map(|phase| phase.taps.clone()).collect();
    taps.sort_unstable();
    assert_eq!(taps, (0..15).collect::<Vec<_>>());
    let windows = |phase: &Phase| phase.sweep.windows[0] * phase.sweep.windows[1];
    assert_eq!(phases.iter().map(windows).sum::<usize>(), 81);
}
