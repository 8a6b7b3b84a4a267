//! Memory: of the device, and of the host where the device reads and writes it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{
    Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaStream, result, sys},
    },
};

use super::{Gpu, Held, Place, Span, Weights};

/// Where the places of a program are.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a> {
    pub(super) weights: &'a Buffer,
    /// Of the memory that the pass computes in, with its size in bytes.
    pub(super) pass: (sys::CUdeviceptr, usize),
    /// What the vendor's libraries work in, where they may be called. Nobody else's on any other stream.
    pub(super) workspace: Option<&'a Buffer>,
}

impl Memory<'_> {
    /// The address of a span.
    ///
    /// # Errors
    /// The memory ends before it does.
    pub(super) fn address(self, span: Span) -> Result<sys::CUdeviceptr> {
        let (base, size, offset) = match span.place {
            Place::Weights(offset) => (self.weights.address(), self.weights.bytes(), offset),
            Place::Pass(offset) => (self.pass.0, self.pass.1, offset),
        };
        if offset + span.bytes > size {
            bail!("expected a span within {size} bytes, got {span:?}")
        }
        Ok(base + offset as u64)
    }

    /// The address and the size in bytes of what the libraries work in.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn workspace(self) -> Result<(sys::CUdeviceptr, usize)> {
        match self.workspace {
            Some(buffer) => Ok((buffer.address(), buffer.bytes())),
            None => bail!("expected a pass of launches alone, got work for a vendor's library"),
        }
    }
}

/// Whoever waits for all of a device makes what is being recorded on it invalid, whichever thread records: so neither may be
/// while the other is.
static RECORDING: RwLock<()> = RwLock::new(());

/// A library that takes and gives back memory by itself may wait for all of a device too. Several may at once, but none while
/// somebody records.
static LIBRARIES: RwLock<()> = RwLock::new(());

/// Leave to record.
pub(crate) struct Recording {
    _no_library: RwLockWriteGuard<'static, ()>,
    _nobody_waits: RwLockReadGuard<'static, ()>,
}

/// While this is held nobody waits for all of a device.
pub(crate) fn recording() -> Recording {
    Recording {
        _no_library: LIBRARIES.write().unwrap_or_else(PoisonError::into_inner),
        _nobody_waits: RECORDING.read().unwrap_or_else(PoisonError::into_inner),
    }
}

/// While this is held nobody records.
pub(super) fn decoding() -> RwLockReadGuard<'static, ()> {
    LIBRARIES.read().unwrap_or_else(PoisonError::into_inner)
}

/// While this is held nobody records.
pub(super) fn alone() -> RwLockWriteGuard<'static, ()> {
    RECORDING.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for all of a device, and does what nothing else on it may run beside.
pub(super) fn settled<T>(context: &CudaContext, then: impl FnOnce(Result<()>) -> T) -> T {
    let _alone = alone();
    then(context.synchronize().w())
}

/// A piece of device memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    address: sys::CUdeviceptr,
    bytes: usize,
    held: Arc<Held>,
    context: Arc<CudaContext>,
}

impl Buffer {
    /// So many bytes of any content.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        gpu.bind()?;
        // SAFETY: the context is bound, and the size is not zero, which the driver would refuse.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.w()?;
        gpu.held().take(bytes);
        Ok(Self {
            address,
            bytes,
            held: Arc::clone(gpu.held()),
            context: Arc::clone(gpu.context()),
        })
    }

    /// So many bytes that are numbers about one, in f16 as in f32.
    ///
    /// # Errors
    /// The device has too little memory, or the driver refuses.
    pub(super) fn filled(gpu: &Gpu, bytes: usize) -> Result<Self> {
        let buffer = Self::new(gpu, bytes)?;
        // SAFETY: the memory is there.
        unsafe { result::memset_d8_sync(buffer.address, 0x3c, bytes) }.w()?;
        // No stream of passes would wait for that.
        settled(&buffer.context, |settled| settled)?;
        Ok(buffer)
    }

    /// A network's weights.
    ///
    /// # Errors
    /// The device has too little memory, or the copy fails.
    pub(crate) fn of(gpu: &Gpu, weights: &Weights) -> Result<Self> {
        let buffer = Self::new(gpu, weights.bytes().len())?;
        // SAFETY: the memory is there, and the call returns when the weights have been read.
        unsafe { result::memcpy_htod_sync(buffer.address, weights.bytes()) }.w()?;
        // They may still be on their way from the driver's own memory, and streams of passes would not wait for that.
        settled(&buffer.context, |settled| settled)?;
        Ok(buffer)
    }

    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // What still runs may use it. Errors have no reader here: whoever waits for results has seen them.
        settled(&self.context, |_| {
            // SAFETY: `malloc_sync` gave it, and nobody has the address any more.
            let _ = unsafe { result::free_sync(self.address) };
        });
        self.held.give(self.bytes);
    }
}

/// Device memory that passes compute in, as large as the largest of them needed.
#[derive(Debug, Default)]
pub(super) struct Arena {
    buffer: Option<Buffer>,
}

impl Arena {
    /// Room for so many bytes; `moved` says that addresses given before are no longer good.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn reserve(&mut self, gpu: &Gpu, bytes: usize) -> Result<(sys::CUdeviceptr, bool)> {
        if let Some(buffer) = self
            .buffer
            .as_ref()
            .filter(|buffer| buffer.bytes() >= bytes)
        {
            return Ok((buffer.address(), false));
        }
        // The old memory goes first: both might not fit, and passes of any size can still get theirs anew.
        self.buffer = None;
        let buffer = Buffer::new(gpu, bytes)?;
        let address = buffer.address();
        self.buffer = Some(buffer);
        Ok((address, true))
    }
}

/// Host memory that the device copies from and to at full speed.
#[derive(Debug)]
pub(super) struct Pinned {
    memory: *mut u8,
    bytes: usize,
    context: Arc<CudaContext>,
}

// SAFETY: it owns its memory, which has no thread of its own.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        gpu.bind()?;
        // SAFETY: the context is bound, and the size is not zero.
        let memory = unsafe { result::malloc_host(bytes.max(1), 0) }.w()?;
        Ok(Self {
            memory: memory.cast(),
            bytes,
            context: Arc::clone(gpu.context()),
        })
    }

    /// At least so many bytes, new ones if there are fewer.
    ///
    /// # Errors
    /// The host has too little memory that can be pinned.
    pub(super) fn at_least<'a>(
        pinned: &'a mut Option<Self>,
        gpu: &Gpu,
        bytes: usize,
    ) -> Result<&'a mut Self> {
        if pinned.as_ref().is_none_or(|pinned| pinned.bytes < bytes) {
            *pinned = None;
        }
        match pinned {
            Some(pinned) => Ok(pinned),
            None => Ok(pinned.insert(Self::new(gpu, bytes)?)),
        }
    }

    /// The first bytes of it.
    ///
    /// # Panics
    /// There are fewer.
    pub(super) fn bytes(&mut self, count: usize) -> &mut [u8] {
        assert!(count <= self.bytes, "beyond the memory");
        // SAFETY: the memory is there, any bits are bytes, and it is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.memory, count) }
    }

    /// Starts copying the first bytes to the device.
    ///
    /// # Errors
    /// The driver refuses.
    ///
    /// # Safety
    /// `to` has room for them, and until the stream has been waited for, nobody writes here or uses that room.
    pub(super) unsafe fn send(
        &mut self,
        count: usize,
        to: sys::CUdeviceptr,
        stream: &CudaStream,
    ) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let from = self.bytes(count);
        // SAFETY: as the caller's.
        unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) }.w()
    }

    /// Starts copying bytes from the device to the first ones here.
    ///
    /// # Errors
    /// The driver refuses.
    ///
    /// # Safety
    /// `from` has them, and until the stream has been waited for, nobody reads or writes here.
    pub(super) unsafe fn receive(
        &mut self,
        count: usize,
        from: sys::CUdeviceptr,
        stream: &CudaStream,
    ) -> Result<()> {
        let to = self.bytes(count);
        // SAFETY: as the caller's.
        unsafe { result::memcpy_dtoh_async(to, from, stream.cu_stream()) }.w()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        settled(&self.context, |_| {
            // SAFETY: `malloc_host` gave it, and nobody copies any more.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        });
    }
}
