//! A device with its kernels.

use std::{fmt, sync::Arc};

use candle_core::{
    CudaDevice, Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, sys},
    },
};

use super::{
    Element, Grid, Held, Source, Target,
    handles::{Communicator, Handles},
    kernels::{Function, Kernels},
    memory::settled,
};
use crate::{backend::Libraries, picture::Unit};

/// For which cards the kernels were compiled, as the build script says it: `80`, `90`.
const BUILT_FOR: &str = env!("GALLEY_CUDA_ARCH");

/// A device, and what networks on it compute in. Clones share the kernels and the libraries.
#[derive(Clone)]
pub(crate) struct Gpu {
    context: Arc<CudaContext>,
    kernels: Arc<Kernels>,
    handles: Arc<Handles>,
    held: Arc<Held>,
    libraries: Libraries,
    /// Where there are others that it averages with.
    communicator: Option<Arc<Communicator>>,
    target: Target,
}

impl Gpu {
    /// Candle's device, for networks that compute in `element`.
    ///
    /// # Errors
    /// The kernels of this build do not run on such a card, or the driver refuses; the message is for whoever chose it.
    pub(crate) fn new(device: &CudaDevice, element: Element) -> std::result::Result<Self, String> {
        let context = Arc::clone(device.cuda_stream().context());
        let refused = |error: DriverError| error.to_string();
        let capability = context.compute_capability().map_err(refused)?;
        if !runs_on(BUILT_FOR, capability) {
            let (major, minor) = capability;
            return Err(format!(
                "this build's kernels are for compute capability {BUILT_FOR} and later, but the device has {major}.{minor}: \
                 build with CUDA_COMPUTE_CAP={major}{minor}"
            ));
        }
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(count).map_err(refused)?;
        Ok(Self {
            target: Target {
                element,
                processors: processors.unsigned_abs() as usize,
                capability,
                cudnn: false,
                bucket: None,
            },
            held: Held::of(context.ordinal()),
            context,
            kernels: Arc::default(),
            handles: Arc::default(),
            libraries: Libraries::default(),
            communicator: None,
        })
    }

    /// The same with other use of the vendor's libraries.
    pub(crate) fn with_libraries(mut self, libraries: Libraries) -> Self {
        self.libraries = libraries;
        self
    }

    /// What it decodes JPEG files with, where there is a library for that.
    pub(crate) fn decoder(&self) -> Option<Unit> {
        self.bind().ok()?;
        self.handles.nvjpeg().map(|library| library.unit)
    }

    /// Whether the libraries round factors of f32.
    pub(super) fn rounds_to_tf32(&self) -> bool {
        self.libraries.tf32
    }

    /// The same, for programs that have convolutions computed by the vendor's library, where that is there and
    /// wanted: see [`Target::cudnn`].
    pub(crate) fn with_cudnn(mut self) -> Self {
        self.target.cudnn =
            self.libraries.cudnn && self.bind().is_ok() && self.handles.convolutions().is_some();
        self
    }

    /// The same, for programs that average gradients with each other's: see [`Target::bucket`].
    ///
    /// # Errors
    /// A device is among them twice, or there is no NCCL.
    pub(crate) fn joined(mut gpus: Vec<Self>, bucket: usize) -> Result<Vec<Self>> {
        let ordinals: Vec<usize> = gpus.iter().map(|gpu| gpu.context.ordinal()).collect();
        for (place, ordinal) in ordinals.iter().enumerate() {
            if ordinals[..place].contains(ordinal) {
                bail!("expected different devices, got cuda:{ordinal} twice")
            }
        }
        let contexts: Vec<_> = gpus.iter().map(|gpu| Arc::clone(&gpu.context)).collect();
        for (gpu, communicator) in gpus.iter_mut().zip(Communicator::all(&contexts)?) {
            gpu.communicator = Some(Arc::new(communicator));
            gpu.target.bucket = Some(bucket);
        }
        Ok(gpus)
    }

    /// Has devices that were joined give up what they wait for, as one of them has failed.
    pub(crate) fn give_up(&self) {
        if let Some(communicator) = &self.communicator {
            communicator.give_up();
        }
    }

    /// Whether each kernel waits by itself for those before it (`take_turn`), which the machine code of older cards cannot.
    pub(super) fn kernels_take_turns(&self) -> bool {
        BUILT_FOR
            .parse()
            .is_ok_and(|built_for: u32| built_for >= 90)
    }

    /// What programs for it depend on.
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    pub(super) fn handles(&self) -> &Arc<Handles> {
        &self.handles
    }

    pub(super) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    pub(super) fn communicator(&self) -> Option<&Arc<Communicator>> {
        self.communicator.as_ref()
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A new stream.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn stream(&self) -> Result<Arc<CudaStream>> {
        // The first one of a context waits for all of the device.
        settled(&self.context, |settled| {
            settled.and_then(|()| self.context.new_stream().w())
        })
    }

    /// A new event, which a thread that waits for it sleeps for.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn event(&self) -> Result<CudaEvent> {
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        self.context.new_event(Some(flags)).w()
    }

    /// Makes this device the calling thread's, as every call of the driver expects.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().w()
    }

    /// A kernel, with leave to be launched in such a grid; the device is the calling thread's.
    ///
    /// # Errors
    /// There is no such kernel, or the card does not have so much.
    pub(super) fn function(&self, source: Source, name: &str, grid: Grid) -> Result<Function> {
        self.kernels
            .function(source, name, grid, self.target.processors)
    }
}

/// Whether kernels for `built_for` run on a card: its own machine code does, and on all later cards the PTX beside it.
fn runs_on(built_for: &str, (major, minor): (i32, i32)) -> bool {
    built_for
        .parse()
        .is_ok_and(|built: i32| built <= 10 * major + minor)
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("ordinal", &self.context.ordinal())
            .field("target", &self.target)
            .finish()
    }
}

/// The tables under these locks are whole whatever happened to those that held them.
#[cfg(test)]
pub(crate) mod tests;
