//! From candle's storages to the slices that the CPU kernels work on.

use candle_core::{CpuStorage, Layout, Result, Tensor, bail};

/// The elements of a contiguous f32 tensor.
pub(super) fn slice<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => Err(unfit(op, storage)),
    }
}

/// The elements of a contiguous f32 tensor, to be overwritten.
pub(super) fn slice_mut<'a>(
    op: &str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        (_, storage) => Err(unfit(op, storage)),
    }
}

fn unfit(op: &str, storage: &CpuStorage) -> candle_core::Error {
    let dtype = match storage {
        CpuStorage::F32(_) => "f32, not contiguous",
        _ => "another dtype",
    };
    candle_core::Error::msg(format!(
        "{op}: expected a contiguous f32 tensor, got {dtype}"
    ))
}

/// Refuses a tensor of another shape than `expected`.
pub(super) fn check(op: &str, what: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() != expected {
        bail!(
            "{op}: expected {what} of shape {expected:?}, got {:?}",
            tensor.dims()
        )
    }
    Ok(())
}
