//! The kernels of this build, loaded as they are asked for.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::CString,
    ptr::null_mut,
    sync::{Mutex, MutexGuard, PoisonError},
};

use candle_core::{
    Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{result, sys},
    },
};

use super::{Grid, Source};

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

/// The kernels that have been loaded.
#[derive(Default)]
pub(super) struct Kernels {
    modules: Mutex<HashMap<Source, Module>>,
    functions: Mutex<HashMap<Source, HashMap<String, Loaded>>>,
}

struct Module(sys::CUmodule);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}

/// A kernel that has been loaded.
struct Loaded {
    handle: sys::CUfunction,
    /// The dynamic shared memory that it has leave to use.
    shared: u32,
    /// [`Function::room`] by threads and dynamic shared memory.
    rooms: HashMap<(u32, u32), usize>,
}

// SAFETY: as for `Module`; a kernel has no state.
unsafe impl Send for Loaded {}

/// A kernel for grids of one shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    /// The blocks that the card runs at once where nothing else does.
    pub(super) room: usize,
}

// SAFETY: as for `Loaded`.
unsafe impl Send for Function {}

impl Kernels {
    /// See [`super::Gpu::function`]; the device has so many multiprocessors.
    ///
    /// # Errors
    /// There is no such kernel, or the device does not have so much.
    pub(super) fn function(
        &self,
        source: Source,
        name: &str,
        grid: Grid,
        processors: usize,
    ) -> Result<Function> {
        let Grid {
            threads, shared, ..
        } = grid;
        let mut functions = lock(&self.functions);
        let functions = functions.entry(source).or_default();
        let loaded = match functions.get_mut(name) {
            Some(loaded) => loaded,
            None => {
                let loaded = self.load(source, name)?;
                functions.entry(name.to_owned()).or_insert(loaded)
            }
        };
        if shared > loaded.shared {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is that of a loaded kernel.
            unsafe {
                result::function::set_function_attribute(
                    loaded.handle,
                    attribute,
                    shared.cast_signed(),
                )
            }
            .w()?;
            loaded.shared = shared;
        }
        let handle = loaded.handle;
        let room = match loaded.rooms.entry((threads, shared)) {
            Entry::Occupied(room) => *room.get(),
            Entry::Vacant(room) => *room.insert(blocks_at_once(handle, grid, processors)?),
        };
        Ok(Function { handle, room })
    }

    fn load(&self, source: Source, name: &str) -> Result<Loaded> {
        let mut modules = lock(&self.modules);
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
            Ok(handle) => Ok(Loaded {
                handle,
                shared: 0,
                rooms: HashMap::new(),
            }),
            Err(error) => bail!("there is no kernel {name} in {source:?}: {error:?}"),
        }
    }
}

/// See [`Function::room`], in whole clusters if it has such; the device is the calling thread's.
///
/// # Errors
/// The driver refuses.
fn blocks_at_once(handle: sys::CUfunction, grid: Grid, processors: usize) -> Result<usize> {
    let Grid {
        threads, shared, ..
    } = grid;
    let [x, y, z] = grid.blocks.map(|blocks| blocks as u32);
    let (mut cluster, mut count) = (0, 0);
    let width = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH;
    // SAFETY: the handle is that of a loaded kernel, and there is a place for the answer.
    unsafe { sys::cuFuncGetAttribute(&raw mut cluster, width, handle) }
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
            sys::cuOccupancyMaxActiveClusters(&raw mut count, handle, &raw const config)
        } else {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut count,
                handle,
                threads.cast_signed(),
                shared as usize,
            )
        }
    };
    asked.result().w()?;
    let each = match cluster {
        0 => processors,
        _ => cluster.unsigned_abs() as usize,
    };
    Ok(count.unsigned_abs() as usize * each)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
