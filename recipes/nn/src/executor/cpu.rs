//! A plan's steps on the CPU, in f32.

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::{OnCpu, weights::Numbers};
use crate::{
    aligned::Aligned,
    host::Shared,
    image::{cpu::fused, padding::Size},
    ops::{
        Images,
        convolution::Pass,
        pixels::{self, Change},
        pool::{self, Fields},
    },
    plan::{Operation, Plan, Step, View},
    simd::Level,
};

/// Bytes that the images of a pass may take together.
const TOGETHER: usize = 256 << 20;

/// What a pass computes in.
#[derive(Default)]
pub(super) struct Workspace {
    /// The plan's buffers.
    memory: Aligned,
    /// Sums over lines, which filters leave.
    sums: Aligned,
}

/// Logits `[images, classes]`.
pub(super) fn run(
    network: &OnCpu,
    plan: &Plan,
    fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    logits: &mut [f32],
) -> Result<()> {
    let threads = rayon::current_num_threads();
    let together = TOGETHER / (plan.len * size_of::<f32>()).max(1);
    let together = (together / threads * threads).max(threads);
    let classes = plan.output.channels * plan.buffers[plan.output.buffer].pixels();
    let parts = logits.chunks_mut(together * classes.max(1));
    for (part, logits) in parts.enumerate() {
        let images = logits.len() / classes;
        let fill = |i: usize, to: &mut [f32]| fill(part * together + i, to);
        network.workspaces.with(|workspace| {
            let Workspace { memory, sums } = workspace;
            let memory = Shared::new(memory.at_least(plan.len * images));
            let mut pass = Batch {
                network,
                plan,
                images,
                memory,
                sums,
                level: Level::detect(),
            };
            pass.fill(&fill);
            for step in &plan.steps {
                pass.step(step)?;
            }
            logits.copy_from_slice(pass.output());
            Ok::<_, candle_core::Error>(())
        })?;
    }
    Ok(())
}

/// Images on their way through the plan.
struct Batch<'a> {
    network: &'a OnCpu,
    plan: &'a Plan,
    images: usize,
    /// So many times the plan's memory as there are images.
    memory: Shared,
    sums: &'a mut Aligned,
    level: Level,
}

impl Batch<'_> {
    fn fill(&mut self, fill: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        // SAFETY: nothing else uses the memory yet.
        let input = unsafe { self.whole_mut(0) };
        let len = self.plan.buffers[0].len();
        input
            .par_chunks_exact_mut(len.max(1))
            .enumerate()
            .for_each(|(i, image)| fill(i, image));
    }

    fn output(&self) -> &[f32] {
        // SAFETY: all steps have run.
        unsafe { self.whole(self.plan.output.buffer) }
    }

    /// Where a buffer of all images is, and how long it is.
    fn room(&self, buffer: usize) -> (Shared, usize) {
        let buffer = &self.plan.buffers[buffer];
        (
            self.memory.from(buffer.offset * self.images),
            buffer.len() * self.images,
        )
    }

    fn images(&self, view: View) -> Images {
        let buffer = &self.plan.buffers[view.buffer];
        Images {
            values: self.room(view.buffer).0.from(view.first),
            size: buffer.size,
            channels: view.channels,
            pitch: buffer.channels,
        }
    }

    /// A buffer's values.
    ///
    /// # Safety
    /// Nobody writes the buffer meanwhile.
    unsafe fn whole<'m>(&self, buffer: usize) -> &'m [f32] {
        let (room, len) = self.room(buffer);
        // SAFETY: the plan's memory has room for all buffers, and the workspace's values are initialised.
        unsafe { std::slice::from_raw_parts(room.at(0), len) }
    }

    /// As [`Self::whole`], to be written.
    ///
    /// # Safety
    /// Nobody else uses the buffer meanwhile.
    unsafe fn whole_mut<'m>(&self, buffer: usize) -> &'m mut [f32] {
        let (room, len) = self.room(buffer);
        // SAFETY: as for `whole`.
        unsafe { std::slice::from_raw_parts_mut(room.at(0), len) }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let (level, images) = (self.level, self.images);
        let output = self.images(step.output);
        let numbers = self.network.laid.get(&step.name).map(|laid| &laid.weights);
        // SAFETY, for all operators: the level is the processor's. Steps run one after the other. The plan gives buffers that
        // are needed at the same time places of their own, and no step reads the channels that it writes.
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
                    images,
                    input: self.images(input.view),
                    output,
                    residual: residual.as_ref().map(|residual| self.images(residual.view)),
                    after: *after,
                };
                // SAFETY: as above.
                unsafe { pass.run(level) };
            }
            (Operation::Depthwise { input, .. }, Some(Numbers::Depthwise { expand, layer })) => {
                let [height, width] = self.plan.buffers[input.view.buffer].size;
                let (size, window) = (Size { height, width }, layer.window);
                let [rows, columns] = window.padding.axes(size, layer.kernel, window.stride)?;
                let pass = fused::Pass {
                    expand: expand.as_ref(),
                    depthwise: layer,
                    rows,
                    columns,
                };
                // SAFETY: as above; the plan has both in whole buffers.
                let (x, out) = unsafe {
                    (
                        self.whole(input.view.buffer),
                        self.whole_mut(step.output.buffer),
                    )
                };
                let sums = self.sums.at_least(images * rows.out * layer.channels());
                pass.run(level, x, images, [out, sums]);
            }
            (Operation::Linear { input, .. }, Some(Numbers::Linear(layer))) => {
                // SAFETY: as above; the plan has both in whole buffers.
                let (x, out) = unsafe {
                    (
                        self.whole(input.view.buffer),
                        self.whole_mut(step.output.buffer),
                    )
                };
                layer.product(x, images).compute_into(level, out);
            }
            (Operation::Pool { input, pool }, _) => {
                let both = [self.images(input.view), output];
                // SAFETY: as above.
                unsafe { pool::run(level, images, both, &Fields::Pool(pool)) };
            }
            (Operation::Mean { input }, _) => {
                let both = [self.images(input.view), output];
                // SAFETY: as above.
                unsafe { pool::run(level, images, both, &Fields::Even) };
            }
            (Operation::Scale { input, .. }, Some(Numbers::Scale(before))) => {
                let both = [self.images(input.view), output];
                // SAFETY: as above.
                unsafe { pixels::run(level, images, both, Change::Scale(before)) };
            }
            (Operation::Add { inputs, activation }, _) => {
                let [left, right] = inputs.each_ref().map(|input| self.images(input.view));
                // SAFETY: as above.
                unsafe {
                    pixels::run(
                        level,
                        images,
                        [left, output],
                        Change::Add(right, *activation),
                    )
                };
            }
            (Operation::Gate { input, gates }, _) => {
                let both = [self.images(input.view), output];
                let gates = self.images(gates.view);
                // SAFETY: as above.
                unsafe { pixels::run(level, images, both, Change::Gate(gates)) };
            }
            (Operation::Gather { parts }, _) => {
                for (view, first) in parts {
                    let part = View {
                        first: step.output.first + first,
                        channels: view.channels,
                        ..step.output
                    };
                    let both = [self.images(*view), self.images(part)];
                    // SAFETY: as above.
                    unsafe { pixels::run(level, images, both, Change::Copy) };
                }
            }
            _ => bail!("{} has no weights", step.name),
        }
        Ok(())
    }
}
