//! What the kernels of an image network's pass do, by what their heads say: on the host, one number after the other, out of
//! memory that begins full of NaN. It knows arguments and grids, and nothing of what made them. It is
//! compiled for tests alone.

use half::f16;

use super::model::Plan;
use crate::{
    activation::Activation,
    cuda::{Argument, Element, Grid, Place, Span, Weights},
};

pub(super) struct Emulator {
    element: Element,
    weights: Vec<u8>,
    pass: Vec<u8>,
}

/// A launch's arguments, taken one after the other.
struct Arguments<'a> {
    left: std::slice::Iter<'a, Argument>,
}

impl Arguments<'_> {
    fn next(&mut self) -> Argument {
        *self.left.next().expect("one more argument")
    }

    fn read(&mut self) -> Option<Span> {
        match self.next() {
            Argument::Read(span) => Some(span),
            Argument::Null => None,
            other => panic!("expected what is read, got {other:?}"),
        }
    }

    fn input(&mut self) -> Span {
        self.read().expect("an input")
    }

    fn write(&mut self) -> Option<Span> {
        match self.next() {
            Argument::Write(span) => Some(span),
            Argument::Null => None,
            other => panic!("expected what is written, got {other:?}"),
        }
    }

    fn output(&mut self) -> Span {
        self.write().expect("an output")
    }

    fn numbers<const N: usize>(&mut self) -> [usize; N] {
        std::array::from_fn(|_| match self.next() {
            Argument::Word(word) => word as usize,
            other => panic!("expected a number, got {other:?}"),
        })
    }

    fn activation(&mut self) -> Activation {
        let [number] = self.numbers();
        let all = [
            Activation::None,
            Activation::Relu6,
            Activation::Silu,
            Activation::Gelu,
            Activation::Tanh,
            Activation::Sigmoid,
            Activation::Relu,
            Activation::GeluTanh,
        ];
        all[number]
    }

    fn end(&mut self) {
        assert_eq!(self.left.len(), 0, "arguments too many");
    }
}

impl Emulator {
    pub(super) fn new(element: Element, weights: &Weights) -> Self {
        Self {
            element,
            weights: weights.bytes().to_vec(),
            pass: Vec::new(),
        }
    }

    /// Of pixels as the plan wants them, to `[images, padded classes]`.
    pub(super) fn run(&mut self, plan: &Plan, pixels: &[u8]) -> Vec<f32> {
        // In f16 and in f32.
        self.pass = vec![0xff; plan.layout.bytes()];
        let Place::Pass(start) = plan.pixels.place else {
            panic!("{:?}", plan.pixels)
        };
        self.pass[start..][..plan.pixels.bytes].copy_from_slice(pixels);
        for launch in plan.program.launches() {
            let mut arguments = Arguments {
                left: launch.arguments.iter(),
            };
            let (name, grid) = (&launch.kernel[..], launch.grid);
            let element = self.element.name();
            if name.starts_with(&format!("stem_{element}")) {
                self.stem(name.ends_with("_bytes"), grid, &mut arguments);
            } else if let Some(kind) = name.strip_prefix(&format!("depthwise_{element}_")) {
                self.depthwise(kind, grid, &mut arguments);
            } else if name == format!("squeeze_excite_{element}") {
                self.squeeze_excite(grid, &mut arguments);
            } else if name == format!("mean_{element}") {
                self.mean(grid, &mut arguments);
            } else if name.starts_with(&format!("matmul_{element}")) {
                self.matmul(&mut arguments);
            } else {
                panic!("no kernel {name}");
            }
            arguments.end();
        }
        self.values(plan.logits)
    }

    fn bytes(&self, span: Span) -> &[u8] {
        match span.place {
            Place::Weights(start) => &self.weights[start..][..span.bytes],
            Place::Pass(start) => &self.pass[start..][..span.bytes],
        }
    }

    fn floats(&self, span: Span) -> Vec<f32> {
        Element::F32.read(self.bytes(span))
    }

    fn values(&self, span: Span) -> Vec<f32> {
        self.element.read(self.bytes(span))
    }

    fn rounded(&self, value: f32) -> f32 {
        match self.element {
            Element::F32 => value,
            Element::F16 => f16::from_f32(value).to_f32(),
        }
    }

    fn store_floats(&mut self, span: Span, values: &[f32]) {
        self.store_as(Element::F32, span, values);
    }

    fn store(&mut self, span: Span, values: &[f32]) {
        self.store_as(self.element, span, values);
    }

    fn store_as(&mut self, element: Element, span: Span, values: &[f32]) {
        let Place::Pass(start) = span.place else {
            panic!("writes weights: {span:?}")
        };
        let bytes = values.len() * element.size();
        assert_eq!(bytes, span.bytes, "all of the output, and no more");
        element.write(values, &mut self.pass[start..][..bytes]);
    }

    fn stem(&mut self, decoded: bool, grid: Grid, arguments: &mut Arguments<'_>) {
        let pixels = arguments.input();
        let colours = decoded.then(|| [arguments.input(), arguments.input()]);
        let [weight, bias, out] = [arguments.input(), arguments.input(), arguments.output()];
        let [
            images,
            height,
            width,
            channels,
            top,
            left,
            out_height,
            out_width,
        ] = arguments.numbers();
        let activation = arguments.activation();
        let pixels: Vec<f32> = match colours {
            None => self.floats(pixels),
            Some([scale, shift]) => {
                let (scale, shift) = (self.floats(scale), self.floats(shift));
                let bytes = self.bytes(pixels).iter().enumerate();
                bytes
                    .map(|(i, &byte)| f32::from(byte).mul_add(scale[i % 3], shift[i % 3]))
                    .collect()
            }
        };
        assert_eq!(pixels.len(), images * height * width * 3);
        let (weight, bias) = (self.values(weight), self.floats(bias));
        let expected = match self.element {
            Element::F32 => [(images * out_height * out_width).div_ceil(128), 1, 1],
            Element::F16 => [out_width.div_ceil(48), out_height.div_ceil(4), images],
        };
        assert_eq!((grid.blocks, grid.threads), (expected, 128));
        let mut result = Vec::new();
        for image in 0..images {
            for (y, x) in pairs(out_height, out_width) {
                for channel in 0..channels {
                    let mut sum = bias[channel];
                    for (ky, kx) in pairs(3, 3) {
                        let (Some(y), Some(x)) = (
                            inside(2 * y + ky, top, height),
                            inside(2 * x + kx, left, width),
                        ) else {
                            continue;
                        };
                        for colour in 0..3 {
                            let at = ((image * height + y) * width + x) * 3 + colour;
                            let w = match self.element {
                                Element::F32 => {
                                    weight[((ky * 3 + kx) * 3 + colour) * channels + channel]
                                }
                                Element::F16 => weight[channel * 32 + ky * 10 + kx * 3 + colour],
                            };
                            sum += self.rounded(pixels[at]) * w;
                        }
                    }
                    result.push(activation.of(sum));
                }
            }
        }
        self.store(out, &result);
    }

    fn depthwise(&mut self, kind: &str, grid: Grid, arguments: &mut Arguments<'_>) {
        let digits: Vec<usize> = kind
            .split(['k', 's', '_'])
            .filter_map(|digits| digits.parse().ok())
            .collect();
        let [kernel, stride, columns] = digits[..] else {
            panic!("{kind}")
        };
        let [x, weight, bias] = [0; 3].map(|_| arguments.input());
        let (out, partials) = (arguments.output(), arguments.write());
        let [
            images,
            height,
            width,
            channels,
            top,
            left,
            out_height,
            out_width,
            rows,
            strips,
            blocks,
        ] = arguments.numbers();
        let activation = arguments.activation();
        let (x, weight, bias) = (self.values(x), self.floats(weight), self.floats(bias));
        assert_eq!(x.len(), images * height * width * channels);
        let across = out_width.div_ceil(strips * columns);
        let tiles = out_height.div_ceil(rows) * across;
        let strip = columns * stride;
        let pixels = strips * strip - stride + kernel;
        let gap = if strip % 2 == 0 { pixels / strip } else { 0 };
        let shared = 8 * blocks * 16 * (pixels + gap) * self.element.size() + strips * blocks * 64;
        assert_eq!(grid.blocks, [channels.div_ceil(16 * blocks), tiles, images]);
        assert_eq!(grid.shared as usize, shared);
        assert_eq!(
            grid.threads as usize,
            (strips * blocks * 8).next_multiple_of(32)
        );
        assert!(grid.threads <= 256);
        let mut result = Vec::new();
        let mut sums = vec![0.0; images * tiles * channels];
        for image in 0..images {
            for (y, x_out) in pairs(out_height, out_width) {
                let tile = y / rows * across + x_out / (strips * columns);
                for channel in 0..channels {
                    let mut sum = bias[channel];
                    for (ky, kx) in pairs(kernel, kernel) {
                        let (Some(y), Some(column)) = (
                            inside(stride * y + ky, top, height),
                            inside(stride * x_out + kx, left, width),
                        ) else {
                            continue;
                        };
                        let at = ((image * height + y) * width + column) * channels + channel;
                        sum += x[at] * weight[(ky * kernel + kx) * channels + channel];
                    }
                    let value = activation.of(sum);
                    sums[(image * tiles + tile) * channels + channel] += value;
                    result.push(value);
                }
            }
        }
        self.store(out, &result);
        if let Some(partials) = partials {
            self.store_floats(partials, &sums);
        }
    }

    fn squeeze_excite(&mut self, grid: Grid, arguments: &mut Arguments<'_>) {
        let [partials, reduce, reduce_bias, expand, expand_bias] =
            [0; 5].map(|_| arguments.input());
        let gates = arguments.output();
        let [images, tiles, pixels, channels, squeezed] = arguments.numbers();
        let partials = self.floats(partials);
        let (reduce, reduce_bias) = (self.values(reduce), self.floats(reduce_bias));
        let (expand, expand_bias) = (self.values(expand), self.floats(expand_bias));
        let vector = 16 / self.element.size();
        let along = (512 / (channels / vector)).max(1);
        let floats = channels + squeezed.next_multiple_of(4) + along * channels;
        assert_eq!((grid.blocks, grid.threads), ([images, 1, 1], 512));
        assert_eq!(grid.shared as usize, 4 * floats);
        assert_eq!(partials.len(), images * tiles * channels);
        let mut result = Vec::new();
        for image in partials.chunks_exact(tiles * channels) {
            let mean = |channel: usize| {
                let sums = image.chunks_exact(channels).map(|tile| tile[channel]);
                sums.sum::<f32>() / pixels as f32
            };
            let means: Vec<f32> = (0..channels).map(mean).collect();
            let hidden = (0..squeezed).map(|row| {
                let weights = &reduce[row * channels..][..channels];
                let sum: f32 = weights.iter().zip(&means).map(|(w, x)| w * x).sum();
                Activation::Silu.of(sum + reduce_bias[row])
            });
            let hidden: Vec<f32> = hidden.collect();
            for channel in 0..channels {
                let terms = hidden.iter().enumerate();
                let sum: f32 = terms
                    .map(|(row, x)| x * expand[row * channels + channel])
                    .sum();
                result.push(Activation::Sigmoid.of(sum + expand_bias[channel]));
            }
        }
        self.store(gates, &result);
    }

    fn mean(&mut self, grid: Grid, arguments: &mut Arguments<'_>) {
        let (x, out) = (arguments.input(), arguments.output());
        let [pixels, channels] = arguments.numbers();
        let x = self.values(x);
        let images = x.len() / (pixels * channels);
        assert_eq!(
            (grid.blocks, grid.threads),
            ([channels.div_ceil(64), images, 1], 256)
        );
        let mut result = Vec::new();
        for image in x.chunks_exact(pixels * channels) {
            for channel in 0..channels {
                let values = image.chunks_exact(channels).map(|pixel| pixel[channel]);
                result.push(values.sum::<f32>() / pixels as f32);
            }
        }
        self.store(out, &result);
    }

    /// Whose tiles have tests of their own.
    fn matmul(&mut self, arguments: &mut Arguments<'_>) {
        let [a, w, bias] = [0; 3].map(|_| arguments.input());
        let (gates, residual, out) = (arguments.read(), arguments.read(), arguments.output());
        let [m, n, k, rows_per_image] = arguments.numbers();
        let activation = arguments.activation();
        let (a, w, bias) = (self.values(a), self.values(w), self.floats(bias));
        assert_eq!([a.len(), w.len(), bias.len()], [m * k, n * k, n]);
        let gates = gates.map(|gates| self.values(gates));
        let residual = residual.map(|residual| self.values(residual));
        let mut result = Vec::new();
        for row in 0..m {
            let mut x = a[row * k..][..k].to_vec();
            if let Some(gates) = &gates {
                let gates = &gates[row / rows_per_image * k..][..k];
                for (x, gate) in x.iter_mut().zip(gates) {
                    *x = self.rounded(*x * gate);
                }
            }
            for column in 0..n {
                let weights = &w[column * k..][..k];
                let sum: f32 = weights.iter().zip(&x).map(|(w, x)| w * x).sum();
                let value = self.rounded(activation.of(sum + bias[column]));
                let more = residual
                    .as_ref()
                    .map_or(0.0, |residual| residual[row * n + column]);
                result.push(value + more);
            }
        }
        self.store(out, &result);
    }
}

/// Rows and columns.
fn pairs(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}

/// A place in an image from one in the image with zeros before it.
fn inside(place: usize, zeros: usize, size: usize) -> Option<usize> {
    place.checked_sub(zeros).filter(|place| *place < size)
}
