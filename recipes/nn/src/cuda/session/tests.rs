use super::*;
use crate::{
    cuda::{Convolution, Element, Geometry, Matrix, Product, Way, tests::device},
    graph::{Shape, Window},
    ops::Onto,
};

/// Numbers between -1 and 1, as an element has them.
fn numbers(element: Element, count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    element.read(&bytes(element, &values))
}

fn bytes(element: Element, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * element.size()];
    element.write(values, &mut bytes);
    bytes
}

/// Fills with bytes.
fn filling(bytes: &[u8]) -> impl Fn(&mut [u8]) {
    move |to| to.copy_from_slice(bytes)
}

/// Runs a program of one piece of work as it is, while it is recorded and from its record. Gives the result, which is the
/// same each time.
fn thrice(
    session: &mut Session,
    program: &Program,
    inputs: &[(Span, &[u8])],
    output: Span,
) -> Vec<u8> {
    let program = session.ready(program).unwrap();
    let fills = inputs.iter().map(|(_, bytes)| filling(bytes));
    let fills: Vec<_> = fills.collect();
    let spans = inputs.iter().map(|(span, _)| *span);
    let inputs: Vec<(Span, Fill<'_>)> =
        (spans.zip(fills.iter().map(|fill| fill as Fill<'_>))).collect();
    let mut run = || session.run(&[program], &inputs, output).unwrap().to_vec();
    let [first, second, third] = [(); 3].map(|()| run());
    assert!(first == second && second == third, "not the same bits");
    first
}

/// That values are near to those that they should be, relative to the largest of these.
fn near(values: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    let scale = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert_eq!(values.len(), expected.len());
    for (place, (&value, expected)) in values.iter().zip(expected).enumerate() {
        let error = (f64::from(value) - expected).abs();
        assert!(
            error <= tolerance * scale,
            "{what} at {place}: {value}, expected {expected}"
        );
    }
}

/// What the last rounding of an element and sums in f32 may differ by; a tensor core's TF32 would differ by more.
fn tolerance(element: Element) -> f64 {
    match element {
        Element::F16 => 2e-3,
        Element::F32 => 5e-6,
    }
}

struct Case {
    elements: [Element; 2],
    turned: [bool; 2],
    biased: bool,
    onto: Onto,
}

/// `c = a b` of rows that are further apart than they are long.
fn multiply(gpu: &Gpu, case: &Case) {
    const SIZES: [usize; 3] = [33, 40, 72];
    let [rows, columns, depth] = SIZES;
    let [element, result] = case.elements;
    let mut layout = Layout::default();
    let mut matrix = |element: Element, [rows, columns]: [usize; 2], turned: bool| {
        let [rows, columns] = if turned {
            [columns, rows]
        } else {
            [rows, columns]
        };
        let pitch = columns.next_multiple_of(8) + 8;
        Matrix {
            span: layout.place(rows * pitch * element.size()),
            element,
            pitch,
            turned,
        }
    };
    let a = matrix(element, [rows, depth], case.turned[0]);
    let b = matrix(element, [depth, columns], case.turned[1]);
    let c = matrix(result, [rows, columns], false);
    let bias = layout.place(columns * result.size());
    let product = Product {
        sizes: SIZES,
        a,
        b,
        c,
        bias: case.biased.then_some(bias),
        onto: case.onto,
    };
    let of = |matrix: &Matrix, seed| {
        let count = matrix.span.bytes / matrix.element.size();
        numbers(matrix.element, count, seed)
    };
    let values = [of(&a, 1), of(&b, 2), of(&c, 3), numbers(result, columns, 4)];
    let at = |matrix: &Matrix, values: &[f32], row: usize, column: usize| {
        let [row, column] = if matrix.turned {
            [column, row]
        } else {
            [row, column]
        };
        f64::from(values[row * matrix.pitch + column])
    };
    let [a_values, b_values, c_values, terms] = &values;
    // What lies between the rows stays.
    let mut expected: Vec<f64> = c_values.iter().map(|&value| value.into()).collect();
    for (row, expected) in expected.chunks_mut(c.pitch).enumerate() {
        for (column, expected) in expected[..columns].iter_mut().enumerate() {
            let products =
                (0..depth).map(|k| at(&a, a_values, row, k) * at(&b, b_values, k, column));
            let before = match case.onto {
                Onto::Write => 0.0,
                Onto::Add => *expected,
            };
            let term = if case.biased {
                terms[column].into()
            } else {
                0.0
            };
            *expected = before + products.sum::<f64>() + term;
        }
    }
    let mut program = Program::default();
    program.multiply(product);
    let mut session = Session::new(gpu, layout).unwrap();
    let inputs = [
        (a.span, bytes(element, a_values)),
        (b.span, bytes(element, b_values)),
        (c.span, bytes(result, c_values)),
        (bias, bytes(result, terms)),
    ];
    let inputs = inputs.each_ref().map(|(span, bytes)| (*span, &bytes[..]));
    let got = thrice(&mut session, &program, &inputs, c.span);
    let what = format!("{product}");
    near(&result.read(&got), &expected, tolerance(result), &what);
}

#[test]
fn products_are_computed_as_matrices_lie() {
    let (half, single) = (Element::F16, Element::F32);
    let Some(gpu) = device(half) else { return };
    for elements in [[half, half], [half, single], [single, single]] {
        for turned in [[false, false], [false, true], [true, false], [true, true]] {
            for (biased, onto) in [
                (false, Onto::Write),
                (true, Onto::Write),
                (false, Onto::Add),
                (true, Onto::Add),
            ] {
                multiply(
                    &gpu,
                    &Case {
                        elements,
                        turned,
                        biased,
                        onto,
                    },
                );
            }
        }
    }
}

#[test]
fn a_step_finds_what_the_one_before_left() {
    let element = Element::F32;
    let Some(gpu) = device(element) else { return };
    let mut layout = Layout::default();
    let size = 16;
    let mut square = || Matrix {
        span: layout.place(size * size * element.size()),
        element,
        pitch: size,
        turned: false,
    };
    let [a, b, sums, copy] = [square(), square(), square(), square()];
    let product = |a, b, c, onto| {
        let mut program = Program::default();
        program.multiply(Product {
            sizes: [size; 3],
            a,
            b,
            c,
            bias: None,
            onto,
        });
        program
    };
    let mut session = Session::new(&gpu, layout).unwrap();
    let unit: Vec<f32> = (0..size * size)
        .map(|place| f32::from(u8::from(place % (size + 1) == 0)))
        .collect();
    session.write(b.span, &bytes(element, &unit)).unwrap();
    session.clear(sums.span).unwrap();
    let add = session.ready(&product(a, b, sums, Onto::Add)).unwrap();
    let show = session.ready(&product(sums, b, copy, Onto::Write)).unwrap();
    let mut expected = vec![0.0; size * size];
    for step in 1..5 {
        let values = vec![step as f32; size * size];
        let input = bytes(element, &values);
        let fill = filling(&input);
        let shown = session.run(&[add, show], &[(a.span, &fill)], copy.span);
        let shown = element.read(shown.unwrap());
        expected.iter_mut().for_each(|sum| *sum += step as f32);
        assert_eq!(shown, expected, "step {step}");
        let times = session.times().unwrap();
        assert_eq!(times.len(), 2);
        assert!(times.iter().all(|time| !time.is_zero()), "{times:?}");
    }
    assert_eq!(element.read(&session.read(sums.span).unwrap()), expected);
    let beyond = Layout::default().place(layout.bytes() + 1);
    assert!(session.read(beyond).is_err());
    let refused = session.run(&[add], &[(beyond, &filling(&[]))], copy.span);
    assert!(refused.unwrap_err().to_string().contains("a span within"));
    assert!(session.times().unwrap().is_empty());
}

/// What a convolution gives of `x`, `weight` and `y`.
fn convolve(geometry: &Geometry, way: Way, values: [&[f32]; 3], onto: Onto) -> Vec<f64> {
    let Geometry {
        images,
        from,
        to,
        window,
        groups,
        ..
    } = *geometry;
    let (inputs, outputs) = (from.channels / groups, to.channels / groups);
    let [_, _, result] = way.order(values);
    let mut sums: Vec<f64> = match onto {
        Onto::Write => vec![0.0; result.len()],
        Onto::Add => result.iter().map(|&value| value.into()).collect(),
    };
    let [down, across] = window.kernel;
    for image in 0..images {
        for place in 0..to.height * to.width * to.channels * down * across * inputs {
            let (input, place) = (place % inputs, place / inputs);
            let (s, place) = (place % across, place / across);
            let (r, place) = (place % down, place / down);
            let (output, place) = (place % to.channels, place / to.channels);
            let (column, row) = (place % to.width, place / to.width);
            let y = row * window.stride[0] + r;
            let x = column * window.stride[1] + s;
            let inside = |at: usize, axis: usize, size: usize| {
                at.checked_sub(window.padding[axis]).filter(|&at| at < size)
            };
            let (Some(y), Some(x)) = (inside(y, 0, from.height), inside(x, 1, from.width)) else {
                continue;
            };
            let channel = output / outputs * inputs + input;
            let places = [
                ((image * from.height + y) * from.width + x) * from.channels + channel,
                ((output * down + r) * across + s) * inputs + input,
                ((image * to.height + row) * to.width + column) * to.channels + output,
            ];
            let [first, second, result] = way.order([0, 1, 2]);
            let [first, second] = [first, second].map(|of| f64::from(values[of][places[of]]));
            sums[places[result]] += first * second;
        }
    }
    sums
}

#[test]
fn convolutions_and_their_gradients_are_computed_where_the_library_is_there() {
    let Some(gpu) = device(Element::F16) else {
        return;
    };
    let gpu = gpu.with_cudnn();
    if !gpu.target().cudnn {
        eprintln!("skipped: no cuDNN");
        return;
    }
    let shape = |channels, [height, width]: [usize; 2]| Shape {
        channels,
        height,
        width,
    };
    let layers = [
        ([16, 24], Window::new(3).stride(2).padding(1), 1),
        ([8, 16], Window::new(1), 1),
        ([32, 32], Window::new(3).padding(1), 4),
    ];
    for element in [Element::F16, Element::F32] {
        for ([inputs, outputs], window, groups) in layers {
            let size = [9, 10];
            let geometry = Geometry {
                element,
                images: 3,
                from: shape(inputs, size),
                to: shape(outputs, window.over(size, false).unwrap()),
                window,
                groups,
            };
            for (way, onto) in [
                (Way::Forward, Onto::Write),
                (Way::Input, Onto::Write),
                (Way::Input, Onto::Add),
                (Way::Weight, Onto::Write),
            ] {
                let mut layout = Layout::default();
                let spans = geometry.bytes().map(|bytes| layout.place(bytes));
                let [x, weight, y] = spans;
                let convolution = Convolution {
                    geometry,
                    way,
                    x,
                    weight,
                    y,
                    onto,
                };
                let mut program = Program::default();
                program.convolve(convolution);
                let mut seed = 0;
                let values = spans.map(|span| {
                    seed += 1;
                    numbers(element, span.bytes / element.size(), seed)
                });
                let [a, b, c] = values.each_ref().map(|values| &values[..]);
                let expected = convolve(&geometry, way, [a, b, c], onto);
                let sent = values.each_ref().map(|values| bytes(element, values));
                let inputs = [0, 1, 2].map(|of| (spans[of], &sent[of][..]));
                let mut session = Session::new(&gpu, layout).unwrap();
                let [_, _, result] = convolution.spans();
                let got = thrice(&mut session, &program, &inputs, result);
                let what = format!("{convolution:?}");
                near(&element.read(&got), &expected, tolerance(element), &what);
            }
            assert!(gpu.supports(&geometry));
        }
    }
}
