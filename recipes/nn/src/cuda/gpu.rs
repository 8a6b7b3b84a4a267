//! A device with its kernels.

use std::{
    collections::HashMap,
    ffi::CString,
    fmt,
    ptr::null_mut,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{
    CudaDevice, Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys},
    },
};

use super::{
    Element, Grid, Held, Source, Target,
    handles::{Communicator, Handles},
    memory::settled,
};
use crate::backend::Libraries;

/// For which cards the kernels were compiled, as the build script says it: `80`, `90`.
const BUILT_FOR: &str = env!("GALLEY_CUDA_ARCH");

/// A source file's kernels as the build script leaves them: machine code for the card built for, and PTX for later ones, of
/// which the driver takes what suits its card.
macro_rules! fatbin {
    ($name:literal) => {{
        /// The driver reads numbers out of it, which bytes by themselves need not be aligned for.
        #[repr(C, align(16))]
        struct Aligned<T: ?Sized>(T);
        static FATBIN: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(
            env!("OUT_DIR"),
            "/",
            $name,
            ".fatbin"
        )));
        &FATBIN.0
    }};
}

impl Source {
    fn fatbin(self) -> &'static [u8] {
        match self {
            Self::Stem => fatbin!("stem"),
            Self::Depthwise => fatbin!("depthwise"),
            Self::SqueezeExcite => fatbin!("squeeze_excite"),
            Self::LayerNorm => fatbin!("layer_norm"),
            Self::Attention => fatbin!("attention"),
            Self::AttentionPlain => fatbin!("attention_plain"),
            Self::Pooling => fatbin!("pooling"),
            Self::TokenHead => fatbin!("token_head"),
            Self::LstmInputs => fatbin!("lstm_inputs"),
            Self::Lstm => fatbin!("lstm"),
            Self::LstmPlain => fatbin!("lstm_plain"),
            Self::LstmStack => fatbin!("lstm_stack"),
            Self::Crf => fatbin!("crf"),
            Self::Matmul => fatbin!("matmul"),
            Self::MatmulF32 => fatbin!("matmul_f32"),
            Self::MatmulSm90 => fatbin!("matmul_sm90"),
            Self::Conv => fatbin!("conv"),
            Self::ConvSm90 => fatbin!("conv_sm90"),
            Self::Pixels => fatbin!("pixels"),
            Self::Resize => fatbin!("resize"),
            Self::TrainValues => fatbin!("train_values"),
            Self::TrainPool => fatbin!("train_pool"),
            Self::TrainTables => fatbin!("train_tables"),
            Self::TrainUpdate => fatbin!("train_update"),
            Self::TrainNorm => fatbin!("train_norm"),
            Self::TrainNormSm90 => fatbin!("train_norm_sm90"),
            Self::TrainLayerNorm => fatbin!("train_layer_norm"),
            Self::TrainAttention => fatbin!("train_attention"),
            Self::TrainAttentionBack => fatbin!("train_attention_back"),
            Self::TrainAttentionPlain => fatbin!("train_attention_plain"),
            Self::TrainLstm => fatbin!("train_lstm"),
            Self::TrainLstmSm90 => fatbin!("train_lstm_sm90"),
            Self::TrainConv => fatbin!("train_conv"),
            Self::TrainConvWeight => fatbin!("train_conv_weight"),
            Self::TrainConvWeightSm90 => fatbin!("train_conv_weight_sm90"),
            Self::TrainConvLayout => fatbin!("train_conv_layout"),
            Self::TrainConvDepthwise => fatbin!("train_conv_depthwise"),
        }
    }
}

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

/// The kernels that have been loaded.
#[derive(Default)]
struct Kernels {
    modules: Mutex<HashMap<Source, Module>>,
    functions: Mutex<HashMap<Source, HashMap<String, Function>>>,
}

struct Module(sys::CUmodule);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}

/// A kernel, and the dynamic shared memory that it has leave to use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    shared: u32,
}

// SAFETY: as for `Module`; a kernel has no state.
unsafe impl Send for Function {}

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

    /// What it decodes JPEG files with, in words for a log, where there is a library for that.
    pub(crate) fn decoder(&self) -> Option<&'static str> {
        self.bind().ok()?;
        self.handles.nvjpeg().map(|library| library.name)
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

    /// A kernel, with leave to use so many bytes of dynamic shared memory; the device is the calling thread's.
    ///
    /// # Errors
    /// There is no such kernel, or the card does not have so much.
    pub(super) fn function(&self, source: Source, name: &str, shared: u32) -> Result<Function> {
        let mut functions = lock(&self.kernels.functions);
        let functions = functions.entry(source).or_default();
        let function = match functions.get_mut(name) {
            Some(function) => function,
            None => {
                let function = self.load(source, name)?;
                functions.entry(name.to_owned()).or_insert(function)
            }
        };
        if shared > function.shared {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is that of a loaded kernel.
            unsafe {
                result::function::set_function_attribute(
                    function.handle,
                    attribute,
                    shared.cast_signed(),
                )
            }
            .w()?;
            function.shared = shared;
        }
        Ok(*function)
    }

    /// How many blocks of a kernel the card runs at once where nothing else runs, in whole clusters if it has such; the device is
    /// the calling thread's.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn blocks_at_once(&self, function: Function, grid: Grid) -> Result<usize> {
        let Grid {
            threads, shared, ..
        } = grid;
        let [x, y, z] = grid.blocks.map(|blocks| blocks as u32);
        let (mut cluster, mut count) = (0, 0);
        let width = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
        // SAFETY: the handle is that of a loaded kernel, and there is a place for the answer.
        unsafe { sys::cuFuncGetAttribute(&raw mut cluster, width, function.handle) }
            .result()
            .w()?;
        // SAFETY: as above; the configuration, which is read before the call returns, has no attributes.
        let asked = unsafe {
            if cluster > 0 {
                let config = sys::CUlaunchConfig {
                    gridDimX: x,
                    gridDimY: y,
                    gridDimZ: z,
                    blockDimX: threads,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: shared,
                    hStream: null_mut(),
                    attrs: null_mut(),
                    numAttrs: 0,
                };
                sys::cuOccupancyMaxActiveClusters(
                    &raw mut count,
                    function.handle,
                    &raw const config,
                )
            } else {
                sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                    &raw mut count,
                    function.handle,
                    threads.cast_signed(),
                    shared as usize,
                )
            }
        };
        asked.result().w()?;
        let each = match cluster {
            0 => self.target.processors,
            _ => cluster.unsigned_abs() as usize,
        };
        Ok(count.unsigned_abs() as usize * each)
    }

    fn load(&self, source: Source, name: &str) -> Result<Function> {
        let mut modules = lock(&self.kernels.modules);
        let module = match modules.get(&source) {
            Some(Module(module)) => *module,
            None => {
                let fatbin = source.fatbin().as_ptr().cast();
                // SAFETY: a whole fatbin, whose head says how long it is. Modules are never unloaded: networks live as long
                // as the process.
                let module = unsafe { result::module::load_data(fatbin) }.w()?;
                modules.insert(source, Module(module));
                module
            }
        };
        let symbol = CString::new(name).expect("a kernel's name is text");
        // SAFETY: the module is loaded.
        match unsafe { result::module::get_function(module, symbol) } {
            // What it may use without leave hangs on what it has besides.
            Ok(handle) => Ok(Function { handle, shared: 0 }),
            Err(error) => bail!("there is no kernel {name} in {source:?}: {error:?}"),
        }
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
