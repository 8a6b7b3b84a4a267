//! A plan's steps as launches.

use candle_core::{Result, bail};

use super::{Model, Numbers, Pixels, Shape, VECTOR, numbers::SOURCES};
use crate::{
    activation::Activation,
    cuda::{Argument, Grid, Layout, Program, Source, Span, Target},
    graph::{Pool, Reduction},
    image::{cuda::planner::Images as Whole, padding::Size},
    matmul::cuda::Product,
    ops::convolution::cuda::{Images, Pass},
    plan::{Operation, Plan, Step, View},
};

/// Values of a pixel that comes in.
const COLOURS: usize = 3;
/// Pixels of a layer, of all images together. Kernels number them by an `int`, and go up to a tile beyond the last.
const MOST_PIXELS: usize = 1 << 30;

/// A pass, before it has any memory.
#[derive(Debug)]
pub(super) struct Launches {
    pub(super) program: Program,
    pub(super) layout: Layout,
    /// `[images, height, width, 3]`, bytes or f32.
    pub(super) pixels: Span,
    /// The plan's output buffer.
    pub(super) output: Span,
}

impl Model {
    /// # Errors
    /// The images are too many or too large for a launch.
    pub(super) fn pass(&self, target: &Target, plan: &Plan, shape: Shape) -> Result<Launches> {
        let mut layout = Layout::default();
        let count = shape.images * shape.size[0] * shape.size[1] * COLOURS;
        let size = match shape.pixels {
            Pixels::Bytes => 1,
            Pixels::Floats => 4,
        };
        let pixels = layout.place(count * size);
        let memory = layout.place(plan.len * shape.images * target.element.size());
        let most = plan.buffers.iter().map(|buffer| buffer.pixels()).max();
        if most.unwrap_or(0).saturating_mul(shape.images) > MOST_PIXELS {
            bail!(
                "expected at most {MOST_PIXELS} pixels in a batch, got {} images of {:?}",
                shape.images,
                shape.size
            )
        }
        let mut making = Making {
            target,
            plan,
            images: shape.images,
            memory,
            input: None,
            program: Program::default(),
        };
        let border = plan
            .steps
            .iter()
            .find_map(|step| match self.laid.get(&step.name) {
                Some((_, Numbers::Convolution(layer))) => {
                    let out = plan.buffers[step.output.buffer].size;
                    layer.border(shape.size, out)
                }
                _ => None,
            });
        making.input = border.map(|border| {
            let [height, width] = border.size;
            let values = shape.images * height * width * border.channels;
            Images {
                span: layout.place(values * target.element.size()),
                count: shape.images,
                size: border.size,
                channels: border.channels,
                pitch: border.channels,
            }
        });
        let before = border.map_or([0, 0], |border| border.before);
        making.input(pixels, shape.pixels, before, self.colours)?;
        for step in &plan.steps {
            let numbers = self.laid.get(&step.name).map(|(_, numbers)| numbers);
            making.step(step, numbers)?;
        }
        Ok(Launches {
            output: making.images(plan.output).span,
            program: making.program,
            layout,
            pixels,
        })
    }
}

struct Making<'a> {
    target: &'a Target,
    plan: &'a Plan,
    images: usize,
    /// So many times the plan's memory as there are images.
    memory: Span,
    /// What comes in, where the only step that reads it wants it otherwise.
    input: Option<Images>,
    program: Program,
}

impl Making<'_> {
    fn images(&self, view: View) -> Images {
        if view.buffer == 0
            && let Some(input) = self.input
        {
            return input;
        }
        let buffer = &self.plan.buffers[view.buffer];
        let size = self.target.element.size();
        let start = buffer.offset * self.images + view.first;
        let values = buffer.len() * self.images - view.first;
        Images {
            span: self.memory.part(start * size, values * size),
            count: self.images,
            size: buffer.size,
            channels: view.channels,
            pitch: buffer.channels,
        }
    }

    /// Channels of a view with those that fill its last vector.
    fn wide(&self, images: Images) -> usize {
        images.channels.next_multiple_of(VECTOR)
    }

    /// Values of a thread.
    fn vector(&self) -> usize {
        16 / self.target.element.size()
    }

    /// A kernel of `pixels.cu` with a thread for each of so many.
    fn push(
        &mut self,
        name: &str,
        threads: usize,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let name = format!("{name}_{}", self.target.element.name());
        let grid = Grid::row(threads.div_ceil(256), 256);
        // SAFETY: callers give the arguments that the head of `pixels.cu` lists, of the shapes that it states.
        unsafe { self.program.push((Source::Pixels, name), grid, arguments) }
    }

    fn input(
        &mut self,
        pixels: Span,
        kind: Pixels,
        [top, left]: [usize; 2],
        [scale, shift]: [Span; 2],
    ) -> Result<()> {
        let size = self.plan.buffers[0].size;
        let to = self.images(View {
            buffer: 0,
            first: 0,
            channels: COLOURS,
        });
        let numbers = [
            to.count, size[0], size[1], top, left, to.size[0], to.size[1], to.pitch,
        ];
        let (kind, meaning) = match kind {
            Pixels::Floats => ("floats", None),
            Pixels::Bytes => ("bytes", Some([scale.read(), shift.read()])),
        };
        let arguments = [pixels.read()]
            .into_iter()
            .chain(meaning.into_iter().flatten())
            .chain([to.span.write()])
            .chain(numbers.map(Argument::from));
        let kernel = format!("input_{}_{kind}", self.target.element.name());
        let grid = Grid::row(to.pixels().div_ceil(256), 256);
        // SAFETY: as in `push`.
        unsafe { (self.program).push((Source::Pixels, kernel), grid, arguments) }
    }

    fn step(&mut self, step: &Step, numbers: Option<&Numbers>) -> Result<()> {
        let output = self.images(step.output);
        match (&step.operation, numbers) {
            (
                Operation::Convolution {
                    input,
                    residual,
                    after,
                    ..
                },
                Some(Numbers::Convolution(layer)),
            ) => {
                let pass = Pass {
                    layer,
                    input: self.images(input.view),
                    output,
                    residual: residual.as_ref().map(|residual| self.images(residual.view)),
                    after: *after,
                };
                pass.push(self.target, &mut self.program)
            }
            (Operation::Depthwise { input, .. }, Some(Numbers::Convolution(layer))) => {
                let pass = Pass {
                    layer,
                    input: self.images(input.view),
                    output,
                    residual: None,
                    after: Activation::None,
                };
                pass.push(self.target, &mut self.program)
            }
            (Operation::Depthwise { input, .. }, Some(Numbers::Depthwise(layer, activation))) => {
                let [x, out] = [self.images(input.view), output].map(|images| Whole {
                    span: images.span,
                    count: images.count,
                    size: Size {
                        height: images.size[0],
                        width: images.size[1],
                    },
                    channels: images.pitch,
                });
                let element = self.target.element;
                layer.launch(element, &mut self.program, [x, out], None, *activation)
            }
            (Operation::Linear { input, .. }, Some(Numbers::Linear(layer, activation))) => {
                let x = self.images(input.view);
                Product {
                    activation: *activation,
                    ..Product::new(x.span, self.images, layer, output.span)
                }
                .push(self.target, &mut self.program)
            }
            (Operation::Pool { input, pool }, _) => {
                let x = self.images(input.view);
                self.pool(x, output, pool)
            }
            (Operation::Mean { input }, _) => {
                let x = self.images(input.view);
                let channels = self.wide(x);
                let threads = output.pixels() * channels / self.vector();
                let numbers = [
                    x.count,
                    x.size[0],
                    x.size[1],
                    channels,
                    x.pitch,
                    output.size[0],
                    output.size[1],
                    output.pitch,
                ];
                let spans = [x.span.read(), output.span.write()];
                let arguments = spans.into_iter().chain(numbers.map(Argument::from));
                self.push("mean", threads.div_ceil(32) * 256, arguments)
            }
            (Operation::Scale { input, .. }, Some(Numbers::Scale(factors, activation))) => {
                let x = self.images(input.view);
                self.change(x, output, Change::Scale(*factors), *activation)
            }
            (Operation::Add { inputs, activation }, _) => {
                let [left, right] = inputs.each_ref().map(|input| self.images(input.view));
                self.change(left, output, Change::Add(right), *activation)
            }
            (Operation::Gate { input, gates }, _) => {
                let [x, gates] = [input, gates].map(|operand| self.images(operand.view));
                self.change(x, output, Change::Gate(gates), Activation::None)
            }
            (Operation::Gather { .. }, Some(Numbers::Gather(table, sources))) => {
                self.gather(*table, sources, output)
            }
            _ => bail!("{} has no weights", step.name),
        }
    }

    fn pool(&mut self, x: Images, output: Images, pool: &Pool) -> Result<()> {
        let channels = self.wide(x);
        let threads = output.pixels() * channels / self.vector();
        let kind = match pool.reduction {
            Reduction::Max => 0,
            Reduction::Mean {
                count_padding: true,
            } => 1,
            Reduction::Mean { .. } => 2,
        };
        let numbers = [
            x.count,
            x.size[0],
            x.size[1],
            channels,
            x.pitch,
            output.size[0],
            output.size[1],
            output.pitch,
            pool.window.kernel[0],
            pool.window.kernel[1],
            pool.window.stride[0],
            pool.window.stride[1],
            pool.window.padding[0],
            pool.window.padding[1],
            kind,
        ];
        let spans = [x.span.read(), output.span.write()];
        let arguments = spans.into_iter().chain(numbers.map(Argument::from));
        self.push("pool", threads, arguments)
    }

    fn change(
        &mut self,
        x: Images,
        output: Images,
        change: Change,
        activation: Activation,
    ) -> Result<()> {
        let channels = self.wide(x);
        let pixels = x.size[0] * x.size[1];
        let threads = x.pixels() * channels / self.vector();
        let (kind, other, [scale, shift], pitch) = match change {
            Change::Scale(factors) => (0, Argument::Null, factors.map(Span::read), 0),
            Change::Add(other) => (1, other.span.read(), [Argument::Null; 2], other.pitch),
            Change::Gate(gates) => (2, gates.span.read(), [Argument::Null; 2], gates.pitch),
        };
        let numbers = [
            x.count,
            pixels,
            channels,
            x.pitch,
            pitch,
            output.pitch,
            kind,
            activation as usize,
        ];
        let spans = [x.span.read(), other, scale, shift, output.span.write()];
        let arguments = spans.into_iter().chain(numbers.map(Argument::from));
        self.push("change", threads, arguments)
    }

    fn gather(&mut self, table: Span, sources: &[View], output: Images) -> Result<()> {
        let channels = self.wide(output);
        let mut spans = [Argument::Null; SOURCES];
        let mut pitches = [Argument::from(0); SOURCES];
        for (i, source) in sources.iter().enumerate() {
            let images = self.images(*source);
            (spans[i], pitches[i]) = (images.span.read(), images.pitch.into());
        }
        let numbers = [output.pixels(), channels, output.pitch];
        let end = [table.read(), output.span.write()];
        let arguments =
            (spans.into_iter().chain(pitches).chain(end)).chain(numbers.map(Argument::from));
        let threads = output.pixels() * channels / self.vector();
        self.push("gather", threads, arguments)
    }
}

/// What is done to each value.
enum Change {
    Scale([Span; 2]),
    Add(Images),
    Gate(Images),
}
