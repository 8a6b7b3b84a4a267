//! A training step on the CPU, in f32: the plan's layers there, the losses, and the way back.

mod backward;
mod forward;
mod sequences;

use std::sync::Arc;

use super::{Layer, Operand, Operation, Plan, Tensor};
use crate::{
    aligned::Aligned,
    graph::Shape,
    host::Shared,
    ops::{
        Images, batch_norm::Statistics, convolution::train::Trained, cross_entropy,
        dropout::Stream, lstm::Lstm,
    },
    simd::Level,
};

/// The numbers of a network, each kind in one array as the plan says.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) parameters: Aligned,
    pub(super) gradients: Aligned,
    pub(super) buffers: Aligned,
}

/// What computes a plan's steps.
#[derive(Debug)]
pub(super) struct Cpu {
    level: Level,
    plan: Arc<Plan>,
    memory: Aligned,
    states: Vec<State>,
    seed: u64,
    /// Steps that there have been.
    step: u32,
}

/// What a layer keeps from its way there for its way back, or from step to step.
#[derive(Debug)]
enum State {
    None,
    Convolution(Box<Trained>),
    Statistics(Statistics),
    /// Where each sequence starts, and where the last one ends.
    Offsets(Vec<usize>),
    Lstm(Box<Lstm>),
}

impl Cpu {
    pub(super) fn new(plan: Arc<Plan>, seed: u64) -> Self {
        let state = |layer: &Layer| match &layer.operation {
            Operation::Convolution(convolution) => {
                let [from, to] = [layer.inputs[0].shape, layer.output.shape];
                State::Convolution(Box::new(Trained::new(convolution, from, to, plan.batch)))
            }
            Operation::Attention { .. } => {
                let tokens = layer.output.shape.width;
                State::Offsets((0..=plan.batch).map(|i| i * tokens).collect())
            }
            Operation::Lstm => {
                let [from, to] = [layer.inputs[0].shape, layer.output.shape];
                State::Lstm(Box::new(Lstm::new(from, to, plan.batch)))
            }
            _ => State::None,
        };
        Self {
            level: Level::detect(),
            memory: Aligned::zeros(plan.len),
            states: plan.layers.iter().map(state).collect(),
            plan,
            seed,
            step: 0,
        }
    }

    /// The losses, each by its weight and together, once all layers have run; where nothing `drops`, as if there were no dropout.
    pub(super) fn forward(
        &mut self,
        numbers: &mut Numbers,
        (input, labels): (&[f32], &[u32]),
        drops: bool,
    ) -> f64 {
        let memory = Memory::new(&self.plan, &mut self.memory);
        // SAFETY: nothing else uses the memory yet.
        unsafe { memory.write(self.plan.input) }.copy_from_slice(input);
        for (layer, state) in self.plan.layers.iter().zip(&mut self.states) {
            let pass = Pass {
                level: self.level,
                plan: &self.plan,
                memory,
                layer,
                stream: stream(self.seed, self.step, &layer.operation),
                drops,
            };
            pass.forward(state, numbers);
        }
        let losses = self.plan.losses.iter().map(|loss| {
            // SAFETY: the gradient's slot is another than that of the logits, which live as long.
            let (logits, gradient) = unsafe {
                let gradient = loss.gradient;
                let gradient = gradient.map(|(slot, onto)| (memory.write(slot), onto));
                (memory.read(loss.logits.slot), gradient)
            };
            loss.weight * cross_entropy::run(logits, labels, loss.weight, gradient)
        });
        losses.sum()
    }

    /// The gradients of all parameters, after `forward`.
    pub(super) fn backward(&mut self, numbers: &mut Numbers) {
        let memory = Memory::new(&self.plan, &mut self.memory);
        for backward in &self.plan.backward {
            let layer = &self.plan.layers[backward.layer];
            let pass = Pass {
                level: self.level,
                plan: &self.plan,
                memory,
                layer,
                stream: stream(self.seed, self.step, &layer.operation),
                drops: true,
            };
            pass.backward(&mut self.states[backward.layer], numbers, backward);
        }
        self.step = self.step.wrapping_add(1);
    }
}

/// A layer's random numbers, if it takes any.
fn stream(seed: u64, step: u32, operation: &Operation) -> Stream {
    let layer = match operation {
        Operation::Dropout { stream, .. } | Operation::Attention { stream, .. } => *stream,
        _ => 0,
    };
    Stream { seed, step, layer }
}

/// A plan's memory, of which steps use slots.
#[derive(Clone, Copy)]
struct Memory<'a> {
    plan: &'a Plan,
    values: Shared,
}

impl<'a> Memory<'a> {
    fn new(plan: &'a Plan, values: &'a mut Aligned) -> Self {
        let values = Shared::new(values.as_mut_slice());
        Self { plan, values }
    }

    fn at(&self, slot: usize) -> Shared {
        let slot = &self.plan.slots[slot];
        self.values.part(slot.offset..slot.offset + slot.len)
    }

    /// # Safety
    /// Nobody writes the slot meanwhile.
    unsafe fn read(&self, slot: usize) -> &'a [f32] {
        // SAFETY: the memory is there and initialised.
        unsafe { std::slice::from_raw_parts(self.at(slot).at(0), self.plan.slots[slot].len) }
    }

    /// # Safety
    /// Nobody else uses the slot meanwhile.
    unsafe fn write(&self, slot: usize) -> &'a mut [f32] {
        // SAFETY: as for `read`.
        unsafe { std::slice::from_raw_parts_mut(self.at(slot).at(0), self.plan.slots[slot].len) }
    }

    fn images(&self, operand: Operand) -> Images {
        images(self.at(operand.slot), operand.shape)
    }
}

/// Values of a shape, nothing between them.
fn images(values: Shared, shape: Shape) -> Images {
    Images {
        values,
        size: [shape.height, shape.width],
        channels: shape.channels,
        pitch: shape.channels,
    }
}

/// So many of the channels of images.
fn part(images: Images, first: usize, channels: usize) -> Images {
    Images {
        values: images.values.from(first),
        channels,
        ..images
    }
}

/// A layer on its way there or back.
struct Pass<'a> {
    level: Level,
    plan: &'a Plan,
    memory: Memory<'a>,
    layer: &'a Layer,
    stream: Stream,
    /// Whether dropout does anything.
    drops: bool,
}

impl Pass<'_> {
    /// The layer's weight and bias.
    fn weights<'a>(&self, parameters: &'a Aligned) -> [Option<&'a [f32]>; 2] {
        let get = |i: usize| {
            let index = self.layer.parameters.get(i)?;
            Some(tensor(&self.plan.parameters, *index, parameters))
        };
        [get(0), get(1)]
    }

    /// Their gradients.
    fn gradients<'a>(&self, gradients: &'a mut Aligned) -> [Option<&'a mut [f32]>; 2] {
        let range = |i: usize| {
            let index = self.layer.parameters.get(i)?;
            Some(self.plan.parameters[*index].range.clone())
        };
        let Some(weight) = range(0) else {
            return [None, None];
        };
        // The bias comes after the weight.
        let (before, after) = gradients.as_mut_slice().split_at_mut(weight.end);
        let end = before.len();
        let bias = range(1).map(|bias| &mut after[bias.start - end..bias.end - end]);
        [Some(&mut before[weight]), bias]
    }
}

fn tensor<'a>(tensors: &[Tensor], index: usize, values: &'a Aligned) -> &'a [f32] {
    &values.as_slice()[tensors[index].range.clone()]
}
