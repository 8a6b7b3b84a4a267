//! A step's arithmetic once its products are there: gates to states, and gradients of states to gradients of gates.

use rayon::prelude::*;

use super::Sizes;
use crate::{
    host::Shared,
    simd::{Level, Vector, below_sigmoid, dispatch, load_up_to, store_up_to, tanh},
};

/// Units below which a step is not worth more threads.
const TASK: usize = 1 << 12;

/// A step forward.
pub(super) struct Cell<'a> {
    pub(super) sizes: Sizes,
    pub(super) step: usize,
    /// What the states before make of the gates, `[sequences, 4 * hidden]`.
    pub(super) product: &'a [f32],
}

/// A step back.
pub(super) struct Back<'a> {
    pub(super) sizes: Sizes,
    pub(super) step: usize,
    /// The gradients of the step's states by what follows, `[sequences, hidden]`.
    pub(super) product: &'a [f32],
    /// All cells, and the gradients of all outputs, `[sequences, steps, hidden]`.
    pub(super) cells: &'a [f32],
    pub(super) dy: &'a [f32],
}

impl Sizes {
    /// Calls `f` for each sequence, on rayon's pool if there are many units.
    fn each(self, f: impl Fn(usize) + Sync + Send) {
        let least = (TASK / self.hidden.max(1)).max(1);
        (0..self.sequences)
            .into_par_iter()
            .with_min_len(least)
            .for_each(f);
    }

    /// The first unit of a sequence's step.
    fn unit(self, sequence: usize, step: usize) -> usize {
        (sequence * self.steps + step) * self.hidden
    }
}

impl Cell<'_> {
    /// From the input's part of all gates to what the gates of this step are; its cells, its outputs, and these once more side by
    /// side.
    pub(super) fn forward(&self, level: Level, memory: [&mut [f32]; 4]) {
        let memory = memory.map(Shared::new);
        // SAFETY: the level is the processor's; the caller checked the lengths, and a sequence's units are no other's.
        self.sizes
            .each(|sequence| unsafe { forward(level, self, sequence, memory) });
    }
}

impl Back<'_> {
    /// From the gates of this step to their gradients, these once more side by side, and from the gradients of its cells to those
    /// of the cells before.
    pub(super) fn run(&self, level: Level, memory: [&mut [f32]; 3]) {
        let memory = memory.map(Shared::new);
        // SAFETY: as in `Cell::forward`.
        self.sizes
            .each(|sequence| unsafe { backward(level, self, sequence, memory) });
    }
}

dispatch! {
    fn forward(cell: &Cell<'_>, sequence: usize, memory: [Shared; 4]) = forward_kernel
}

/// `c' = f c + i g` and `h = o tanh(c')`.
#[inline(always)]
unsafe fn forward_kernel<V: Vector>(
    cell: &Cell<'_>,
    sequence: usize,
    [gates, cells, outputs, now]: [Shared; 4],
) {
    let (hidden, here) = (cell.sizes.hidden, cell.sizes.unit(sequence, cell.step));
    for unit in (0..hidden).step_by(V::LEN) {
        let count = (hidden - unit).min(V::LEN);
        // SAFETY: the sequence has `count` units from there on, of each gate, and its step before too if there is one.
        unsafe {
            let mut parts = [V::splat(0.0); 4];
            for (gate, part) in parts.iter_mut().enumerate() {
                let product = cell
                    .product
                    .as_ptr()
                    .add((4 * sequence + gate) * hidden + unit);
                let to = gates.at(4 * here + gate * hidden + unit);
                let sum = load_up_to::<V>(to, count).add(load_up_to(product, count));
                *part = match gate {
                    2 => tanh(sum),
                    _ => V::splat(1.0).div(below_sigmoid(sum)),
                };
                store_up_to(*part, to, count);
            }
            let [i, f, g, o] = parts;
            let mut c = i.mul(g);
            if cell.step > 0 {
                c = f.mul_add(load_up_to(cells.at(here - hidden + unit), count), c);
            }
            let h = o.mul(tanh(c));
            store_up_to(c, cells.at(here + unit), count);
            store_up_to(h, outputs.at(here + unit), count);
            store_up_to(h, now.at(sequence * hidden + unit), count);
        }
    }
}

dispatch! {
    fn backward(back: &Back<'_>, sequence: usize, memory: [Shared; 3]) = backward_kernel
}

#[inline(always)]
unsafe fn backward_kernel<V: Vector>(
    back: &Back<'_>,
    sequence: usize,
    [gates, now, dcells]: [Shared; 3],
) {
    let (hidden, here) = (back.sizes.hidden, back.sizes.unit(sequence, back.step));
    for unit in (0..hidden).step_by(V::LEN) {
        let count = (hidden - unit).min(V::LEN);
        let of = |values: &[f32], at: usize| values[at + unit..].as_ptr();
        // SAFETY: as in `forward_kernel`.
        unsafe {
            let one = V::splat(1.0);
            let minus = V::splat(-1.0);
            let mut parts = [V::splat(0.0); 4];
            for (gate, part) in parts.iter_mut().enumerate() {
                *part = load_up_to(gates.at(4 * here + gate * hidden + unit), count);
            }
            let [i, f, g, o] = parts;
            let dy: V = load_up_to(of(back.dy, here), count);
            let dh = dy.add(load_up_to(of(back.product, sequence * hidden), count));
            let tanh = tanh(load_up_to::<V>(of(back.cells, here), count));
            let before = if back.step > 0 {
                load_up_to(of(back.cells, here - hidden), count)
            } else {
                V::splat(0.0)
            };
            let dcell = dcells.at(sequence * hidden + unit);
            let left = tanh.mul(tanh).mul_add(minus, one);
            let dc = dh.mul(o).mul_add(left, load_up_to(dcell, count));
            store_up_to(dc.mul(f), dcell, count);
            // A sigmoid's slope is `s - s^2`, that of tanh `1 - t^2`.
            let gradients = [
                dc.mul(g).mul(i.mul(minus).mul_add(i, i)),
                dc.mul(before).mul(f.mul(minus).mul_add(f, f)),
                dc.mul(i).mul(g.mul(minus).mul_add(g, one)),
                dh.mul(tanh).mul(o.mul(minus).mul_add(o, o)),
            ];
            for (gate, gradient) in gradients.into_iter().enumerate() {
                store_up_to(gradient, gates.at(4 * here + gate * hidden + unit), count);
                store_up_to(
                    gradient,
                    now.at((4 * sequence + gate) * hidden + unit),
                    count,
                );
            }
        }
    }
}
