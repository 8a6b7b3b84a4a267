//! NCCL, by which several devices of this process average what each has found. A build does not need it: it is looked for when
//! there are several, and its functions are declared here as its header has them (`nccl.h`, from version 2.10 on).

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::forget,
    ptr::null_mut,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use candle_core::{
    Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys},
    },
};
use libloading::Library;

use super::functions;

const NAME: &str = "libnccl.so.2";

/// `ncclResult_t`; zero is success.
type Status = c_int;
/// `ncclComm_t`.
type Raw = *mut c_void;

/// `ncclFloat32`.
const FLOAT: c_int = 7;
/// `ncclAvg`.
const AVERAGE: c_int = 4;

functions! {
    text: "ncclGetErrorString"(Status) -> *const c_char;
    create: "ncclCommInitAll"(*mut Raw, c_int, *const c_int) -> Status;
    destroy: "ncclCommDestroy"(Raw) -> Status;
    abort: "ncclCommAbort"(Raw) -> Status;
    all_reduce: "ncclAllReduce"(*const c_void, *mut c_void, usize, c_int, c_int, Raw, *mut c_void) -> Status;
}

impl Functions {
    /// The library's, if there is one that can be used.
    fn load() -> std::result::Result<&'static Self, &'static str> {
        static LOADED: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| {
            // SAFETY: a library of this name is NCCL, whose initialisation asks for nothing.
            let library = unsafe { Library::new(NAME) }.map_err(|error| error.to_string())?;
            // SAFETY: it is never unloaded.
            let functions = unsafe { Self::of(&library) }.map_err(|error| error.to_string());
            forget(library);
            functions
        });
        loaded.as_ref().map_err(String::as_str)
    }

    fn result(&self, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library has a constant text for any number.
        let text = unsafe { CStr::from_ptr((self.text)(status)) };
        bail!("NCCL: {}", text.to_string_lossy())
    }
}

/// Devices that average with each other.
struct Group {
    functions: &'static Functions,
    ranks: Vec<Raw>,
    given_up: AtomicBool,
}

// SAFETY: a rank is used by one thread at a time, but for being given up, which any thread may do.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Drop for Group {
    fn drop(&mut self) {
        if self.given_up.load(Ordering::Acquire) {
            return;
        }
        for rank in &self.ranks {
            // SAFETY: the library gave it, and nobody uses it any more. Errors have no reader here.
            let _ = unsafe { (self.functions.destroy)(*rank) };
        }
    }
}

/// A device's place among those that it averages with.
///
/// It has to outlive graphs that were recorded with it, for NCCL waits for their end before it lets go.
pub(in crate::cuda) struct Communicator {
    group: Arc<Group>,
    rank: usize,
    /// What averages run on, beside the stream of what computes, and before it where both want the device: so that an average
    /// is there as a whole, and ends, also beside kernels whose blocks wait until all of them are there.
    stream: Arc<CudaStream>,
    /// Comes when the values of the next average are there.
    written: CudaEvent,
    /// Comes when all averages are over.
    averaged: CudaEvent,
}

impl Communicator {
    /// One for each of these devices, which are different ones.
    ///
    /// # Errors
    /// There is no NCCL, or it refuses.
    pub(in crate::cuda) fn all(contexts: &[Arc<CudaContext>]) -> Result<Vec<Self>> {
        let functions = match Functions::load() {
            Ok(functions) => functions,
            Err(error) => bail!(
                "several devices train together by NCCL, of which {NAME} (PyPI's nvidia-nccl-cu13 has it) was not to be found on \
                 LD_LIBRARY_PATH: {error}"
            ),
        };
        let ordinals: Vec<c_int> = contexts.iter().map(|one| one.ordinal() as c_int).collect();
        let mut ranks = vec![null_mut(); ordinals.len()];
        let count = ordinals.len() as c_int;
        // SAFETY: there are as many places and ordinals as it is told.
        let created = unsafe { (functions.create)(ranks.as_mut_ptr(), count, ordinals.as_ptr()) };
        functions.result(created)?;
        let group = Arc::new(Group {
            functions,
            ranks,
            given_up: AtomicBool::new(false),
        });
        let communicator = |(rank, context): (usize, &Arc<CudaContext>)| -> Result<Self> {
            context.bind_to_thread().w()?;
            let (_, first) = result::stream::get_priority_range().w()?;
            Ok(Self {
                group: Arc::clone(&group),
                rank,
                stream: context.new_stream_with_priority(first).w()?,
                written: context.new_event(None).w()?,
                averaged: context.new_event(None).w()?,
            })
        };
        contexts.iter().enumerate().map(communicator).collect()
    }

    /// Starts averaging f32 values in place with those of the other devices, which each start as many, once what is on the
    /// stream now is over.
    ///
    /// While nothing is recorded the thread waits for the average too. For a kernel's first launch may have to load it and so
    /// wait for all that runs on the device, an average among it, which in turn waits for another device's thread.
    ///
    /// # Errors
    /// The library or the driver refuses.
    ///
    /// # Safety
    /// The values are there until [`Self::join`], and until then nobody uses them.
    pub(in crate::cuda) unsafe fn average(
        &self,
        address: sys::CUdeviceptr,
        count: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        let Group {
            functions, ranks, ..
        } = &*self.group;
        self.written.record(stream).w()?;
        self.stream.wait(&self.written).w()?;
        let (values, on) = (address as *mut c_void, self.stream.cu_stream().cast());
        // SAFETY: as the caller's.
        let started = unsafe {
            (functions.all_reduce)(values, values, count, FLOAT, AVERAGE, ranks[self.rank], on)
        };
        functions.result(started)?;
        match stream.capture_status().w()? {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => {
                self.stream.synchronize().w()
            }
            _ => Ok(()),
        }
    }

    /// Has a stream wait for all averages.
    ///
    /// # Errors
    /// The driver refuses.
    pub(in crate::cuda) fn join(&self, stream: &CudaStream) -> Result<()> {
        self.averaged.record(&self.stream).w()?;
        stream.wait(&self.averaged).w()
    }

    /// Ends what others wait for in vain, as one of the devices has failed. Nothing can be averaged any more.
    pub(in crate::cuda) fn give_up(&self) {
        if self.group.given_up.swap(true, Ordering::AcqRel) {
            return;
        }
        for rank in 0..self.group.ranks.len() {
            let group = Arc::clone(&self.group);
            // What runs ends at once, but the call only with the last graph that was recorded.
            thread::spawn(move || {
                // SAFETY: the library gave it, and ends it once.
                let _ = unsafe { (group.functions.abort)(group.ranks[rank]) };
            });
        }
    }
}
