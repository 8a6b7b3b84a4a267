//! The gradients of a head's queries, keys and values.
//!
//! With `P` the softmax's results, `M` what dropout multiplies them by and `D` of each query the product of output and gradient:
//! `dV = (M P)^T dO`, `dS = P (M (dO V^T) - D)`, `dQ = dS K` and `dK = dS^T Q`, the last two divided by the root of `dim`. A tile
//! is some keys by all queries that see them, so that all but `dQ` is complete when a tile has been gone through; `dQ` gathers
//! what a block of keys gives.

mod memory;
mod pass;

use self::{memory::Memory, pass::Pass};
use super::{
    kernel::Head,
    pack::{Rows, pack_columns, pack_panels},
};
use crate::{
    ops::Onto,
    simd::{MAX_LEN, Vector, dispatch},
};

pub(super) use memory::Sizes;

/// Keys of a block: whole tiles at every level, and whole small squares.
const BLOCK: usize = 48;

/// Taken from the right place on, the bounds of a vector of weights: nothing for queries that do not see the key, and then none.
static BOUNDS: [f32; 2 * MAX_LEN] = {
    let mut bounds = [0.0; 2 * MAX_LEN];
    let (_, none) = bounds.split_at_mut(MAX_LEN);
    let mut i = 0;
    while i < MAX_LEN {
        none[i] = f32::INFINITY;
        i += 1;
    }
    bounds
};

/// What is read beside the head, and what is written.
pub(super) struct Gradients<'a> {
    /// The head's outputs.
    pub(super) out: Rows,
    /// Their gradients.
    pub(super) dout: Rows,
    pub(super) log_sums: &'a [f32],
    /// The gradient of the first token's query; others are as far from it as the values from the first query.
    pub(super) dqkv: *mut f32,
    pub(super) onto: Onto,
}

dispatch! {
    /// Computes them.
    ///
    /// # Safety
    /// The processor has the level; the head has the rows and columns that it states, and so has what is beside it; nobody else
    /// uses the gradients meanwhile.
    pub(super) fn run(head: &Head<'_>, gradients: &Gradients<'_>, sizes: &Sizes, memory: &mut [f32])
        = run_kernel
}

#[inline(always)]
unsafe fn run_kernel<V: Vector>(
    head: &Head<'_>,
    gradients: &Gradients<'_>,
    sizes: &Sizes,
    memory: &mut [f32],
) {
    const { assert!(BLOCK.is_multiple_of(V::ROWS) && BLOCK.is_multiple_of(4)) };
    let memory = Memory::new(sizes, memory);
    let pass = Pass {
        head,
        gradients,
        memory: &memory,
    };
    // SAFETY: the memory has all that its fields state.
    unsafe {
        pack_columns(head.rows(0), memory.query_columns);
        pack_panels::<V>(head.rows(0), 1.0, memory.queries);
        pack_columns(gradients.dout, memory.dout_columns);
        pack_panels::<V>(gradients.dout, 1.0, memory.douts);
        pass.prepare::<V>();
        for start in (0..head.tokens).step_by(BLOCK) {
            let block = start..head.tokens.min(start + BLOCK);
            // Queries from the first that sees one of the keys, in whole vectors.
            let first = if head.causal {
                start / (2 * V::LEN) * (2 * V::LEN)
            } else {
                0
            };
            if let Some(dropped) = &head.dropped {
                pass.mask(dropped, block.clone(), first);
            }
            for key in block.clone().step_by(V::ROWS) {
                let keys = key..block.end.min(key + V::ROWS);
                pass.weigh::<V>(keys.clone(), key - start, first);
                pass.values::<V>(keys.clone(), first);
                pass.scores::<V>(keys.clone(), key - start, first);
                pass.keys::<V>(keys, key - start, first);
            }
            pass.queries::<V>(block, first);
        }
        pass.put_queries::<V>();
    }
}
