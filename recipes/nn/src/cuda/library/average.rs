//! Averages over devices by NCCL.

use std::sync::Arc;

use candle_core::{
    Result, bail,
    cuda_backend::cudarc::driver::{CudaStream, sys::CUdeviceptr},
};

use crate::cuda::{Element, Gpu, Span, handles::Communicator, memory::Memory};

/// An average that can be started, or the wait for all that have been.
pub(in crate::cuda) struct Averaging {
    communicator: Arc<Communicator>,
    /// Where the values are, and how many.
    values: Option<(CUdeviceptr, usize)>,
}

impl Averaging {
    /// Of f32 values; of none, the wait.
    ///
    /// # Errors
    /// The device is by itself, or the span is outside the memory.
    pub(in crate::cuda) fn new(
        gpu: &Gpu,
        values: Option<Span>,
        memory: Memory<'_>,
    ) -> Result<Self> {
        let Some(communicator) = gpu.communicator() else {
            bail!("expected a device with others to average with, got one by itself")
        };
        let place = |span: Span| {
            let count = span.bytes / Element::F32.size();
            memory.address(span).map(|address| (address, count))
        };
        Ok(Self {
            communicator: Arc::clone(communicator),
            values: values.map(place).transpose()?,
        })
    }

    /// Starts it.
    ///
    /// # Errors
    /// The library or the driver refuses.
    ///
    /// # Safety
    /// As [`Communicator::average`].
    pub(in crate::cuda) unsafe fn start(&self, stream: &CudaStream) -> Result<()> {
        match self.values {
            // SAFETY: as the caller's.
            Some((address, count)) => unsafe { self.communicator.average(address, count, stream) },
            None => self.communicator.join(stream),
        }
    }
}
