//! Between candle's tensors and slices of host memory.

use std::{mem::MaybeUninit, ops::Range};

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

/// A contiguous f32 tensor's values.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) = bounds(layout)?;
    Ok(&storage.as_slice::<f32>()?[start..end])
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

/// A tensor's values in order, as f32 on the host.
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    let tensor = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    tensor.flatten_all()?.to_vec1()
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

    /// Values that are only read through it.
    pub(crate) fn reading(values: &[f32]) -> Self {
        Self {
            start: values.as_ptr().cast_mut(),
            len: values.len(),
        }
    }

    /// What is left of it from a place on.
    ///
    /// # Panics
    /// It ends before.
    pub(crate) fn from(self, index: usize) -> Self {
        assert!(index <= self.len, "beyond the memory");
        Self {
            start: self.start.wrapping_add(index),
            len: self.len - index,
        }
    }

    /// A part of it.
    ///
    /// # Panics
    /// It reaches beyond.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        assert!(range.end <= self.len, "beyond the memory");
        Self {
            len: range.len(),
            ..self.from(range.start)
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

/// Cuts `0..total` into at most `parts` ranges that differ by at most one `unit`, of which each but the last is a multiple.
pub(crate) fn split(total: usize, unit: usize, parts: usize) -> Vec<Range<usize>> {
    let units = total.div_ceil(unit);
    let parts = parts.clamp(1, units.max(1));
    let end = |part: usize| total.min(units * part / parts * unit);
    (0..parts)
        .map(|part| end(part)..end(part + 1))
        .filter(|range| !range.is_empty())
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
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
            let longest = ranges.iter().map(ExactSizeIterator::len).max();
            let even = total.div_ceil(unit).div_ceil(parts) * unit;
            assert!(longest.unwrap_or(0) <= even && ranges.len() <= parts);
        }
    }
}
