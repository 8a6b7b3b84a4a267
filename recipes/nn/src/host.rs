//! Between candle's tensors and slices of host memory.

use std::{mem::MaybeUninit, ops::Range};

use candle_core::{CpuStorage, Layout, Result, Shape, Storage, Tensor, bail};

/// A contiguous f32 tensor's values.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = bounds(layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// A contiguous f32 tensor's values, to be overwritten.
pub(crate) fn values_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    let (start, end) = bounds(layout)?;
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => bail!("expected an f32 tensor"),
    }
}

fn bounds(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(bounds) => Ok(bounds),
        None => bail!(
            "expected a contiguous tensor, got strides {:?}",
            layout.stride()
        ),
    }
}

/// Calls `f` with a contiguous f32 tensor's values.
pub(crate) fn with<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(values(storage, layout)?),
        _ => bail!(
            "expected a tensor on the CPU, got one on {:?}",
            tensor.device()
        ),
    }
}

/// As [`with`], for a tensor that may be absent.
pub(crate) fn with_option<T>(
    tensor: Option<&Tensor>,
    f: impl FnOnce(Option<&[f32]>) -> Result<T>,
) -> Result<T> {
    match tensor {
        Some(tensor) => with(tensor, |values| f(Some(values))),
        None => f(None),
    }
}

/// Refuses a tensor of another shape.
pub(crate) fn expect_shape(what: &str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
    if tensor.dims() != shape {
        bail!("{what}: expected shape {shape:?}, got {:?}", tensor.dims())
    }
    Ok(())
}

/// A kernel's output: memory that has not been cleared, as a kernel writes all of it.
pub(crate) struct Output(Vec<MaybeUninit<f32>>);

impl Output {
    pub(crate) fn new(len: usize) -> Self {
        let mut memory = Vec::with_capacity(len);
        // SAFETY: the capacity is there, and `MaybeUninit` needs no initial value.
        unsafe { memory.set_len(len) };
        Self(memory)
    }

    /// To be written from several threads, each its own part.
    pub(crate) fn shared(&mut self) -> Shared {
        Shared {
            start: self.0.as_mut_ptr().cast(),
            len: self.0.len(),
        }
    }

    /// The finished tensor.
    ///
    /// # Safety
    /// Every value has been written.
    pub(crate) unsafe fn finish(self, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
        // SAFETY: as the caller's.
        (CpuStorage::F32(unsafe { self.values() }), shape.into())
    }

    /// The finished values.
    ///
    /// # Safety
    /// Every value has been written.
    pub(crate) unsafe fn values(self) -> Vec<f32> {
        let mut memory = std::mem::ManuallyDrop::new(self.0);
        // SAFETY: the parts are those of a vector that is not dropped, `MaybeUninit<f32>` has the layout of f32, and
        // every value has been written.
        unsafe { Vec::from_raw_parts(memory.as_mut_ptr().cast(), memory.len(), memory.capacity()) }
    }
}

/// Memory that several threads write, each its own part of it.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: it is only an address; whoever writes through it promises disjoint parts (see `at`).
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Shared {
    /// Memory that has values already.
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            len: values.len(),
        }
    }

    /// The address of a part.
    ///
    /// # Safety
    /// No other thread uses the values that the caller writes from there on, and it stays within the memory.
    pub(crate) unsafe fn at(self, index: usize) -> *mut f32 {
        debug_assert!(index <= self.len);
        // SAFETY: within the allocation, as the caller promises.
        unsafe { self.start.add(index) }
    }
}

/// Cuts `0..total` into about `parts` ranges of a multiple of `unit`.
pub(crate) fn split(total: usize, unit: usize, parts: usize) -> Vec<Range<usize>> {
    let step = total
        .div_ceil(parts.max(1))
        .next_multiple_of(unit.max(1))
        .max(1);
    (0..total)
        .step_by(step)
        .map(|start| start..total.min(start + step))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::Device;

    use super::*;

    /// Numbers in `[-2, 2)` that look random and are always the same.
    pub(crate) fn random(shape: &[usize], seed: u32) -> Tensor {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 22) as f32 - 2.0
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f32) {
        assert_eq!(got.dims(), expected.dims(), "{what}");
        for (i, (a, b)) in flat(got).iter().zip(flat(expected)).enumerate() {
            let allowed = tolerance * (1.0 + b.abs());
            assert!(
                (a - b).abs() <= allowed,
                "{what}: value {i} is {a}, expected {b}"
            );
        }
    }

    #[test]
    fn ranges_cover_everything_once() {
        for (total, unit, parts) in [(81, 12, 2), (5, 12, 4), (96, 12, 8), (1, 1, 9), (0, 4, 2)] {
            let ranges = split(total, unit, parts);
            assert_eq!(
                ranges.iter().map(ExactSizeIterator::len).sum::<usize>(),
                total
            );
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(ranges.iter().all(|range| range.start % unit == 0));
        }
    }
}
