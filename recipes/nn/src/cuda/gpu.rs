//! A device with its kernels.

use std::{
    collections::HashMap,
    ffi::CString,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use candle_core::{
    CudaDevice, Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys},
    },
};

use super::{Element, Source, Target};

/// The compiled kernels, a constant for each source file.
mod ptx {
    #![allow(
        unreachable_pub,
        reason = "written by the build script for whoever wants them"
    )]
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// For which cards the kernels were compiled, as the build script says it: `80`, `90a`.
const BUILT_FOR: &str = env!("GALLEY_CUDA_ARCH");

impl Source {
    fn ptx(self) -> &'static str {
        match self {
            Self::Image => ptx::IMAGE,
            Self::Text => ptx::TEXT,
            Self::Lstm => ptx::LSTM,
            Self::Crf => ptx::CRF,
            Self::Matmul => ptx::MATMUL,
            Self::MatmulSm90 => ptx::MATMUL_SM90,
        }
    }
}

/// A device, and what networks on it compute in. Clones share the kernels.
#[derive(Clone)]
pub(crate) struct Gpu {
    context: Arc<CudaContext>,
    kernels: Arc<Kernels>,
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
    /// The kernels of this build do not run on such a card, or the driver refuses.
    pub(crate) fn new(device: &CudaDevice, element: Element) -> Result<Self> {
        let context = Arc::clone(device.cuda_stream().context());
        let capability = context.compute_capability().w()?;
        if !runs_on(BUILT_FOR, capability) {
            let (major, minor) = capability;
            bail!(
                "this build's kernels are for compute capability {BUILT_FOR}, but the device has {major}.{minor}: build \
                 with CUDA_COMPUTE_CAP={major}{minor}"
            )
        }
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        Ok(Self {
            target: Target {
                element,
                processors: context.attribute(count).w()?.unsigned_abs() as usize,
                capability,
            },
            context,
            kernels: Arc::default(),
        })
    }

    /// What programs for it depend on.
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A new stream.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn stream(&self) -> Result<Arc<CudaStream>> {
        self.context.new_stream().w()
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

    fn load(&self, source: Source, name: &str) -> Result<Function> {
        /// What a kernel may use without leave.
        const FREE: u32 = 48 << 10;
        let mut modules = lock(&self.kernels.modules);
        let module = match modules.get(&source) {
            Some(Module(module)) => *module,
            None => {
                let text = CString::new(source.ptx()).expect("PTX is text");
                // SAFETY: a text of PTX, ended by a zero byte. Modules are never unloaded: networks live as long as
                // the process.
                let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.w()?;
                modules.insert(source, Module(module));
                module
            }
        };
        let symbol = CString::new(name).expect("a kernel's name is text");
        // SAFETY: the module is loaded.
        match unsafe { result::module::get_function(module, symbol) } {
            Ok(handle) => Ok(Function {
                handle,
                shared: FREE,
            }),
            Err(error) => bail!("there is no kernel {name} in {source:?}: {error:?}"),
        }
    }
}

/// Whether PTX for `built_for` runs on a card. That for a plain number runs on all later ones; with an `a` it may use
/// what other cards, later ones too, do not have.
fn runs_on(built_for: &str, (major, minor): (i32, i32)) -> bool {
    let number = built_for.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let card = 10 * major + minor;
    number
        .parse()
        .is_ok_and(|built: i32| built == card || (built < card && number.len() == built_for.len()))
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
pub(crate) mod tests {
    use super::*;
    use crate::cuda::{Argument, Program};

    /// The first device, or nothing where there is none, and says so.
    pub(crate) fn device(element: Element) -> Option<Gpu> {
        let gpu = CudaDevice::new_with_stream(0).and_then(|device| Gpu::new(&device, element));
        match gpu {
            Ok(gpu) => Some(gpu),
            Err(error) => {
                eprintln!("skipped: no CUDA device ({error})");
                None
            }
        }
    }

    /// What a compiled kernel takes, in order.
    #[derive(Debug, PartialEq, Eq)]
    enum Parameter {
        Pointer,
        Word,
        Map,
    }

    /// A compiled kernel's parameters, and the threads of a block that it is compiled for at most.
    fn signature(source: Source, kernel: &str) -> (Vec<Parameter>, u32) {
        let entry = format!(".entry {kernel}(");
        let (_, text) = (source.ptx().split_once(&entry))
            .unwrap_or_else(|| panic!("there is no kernel {kernel} in {source:?}"));
        let (parameters, text) = text.split_once(')').expect("parameters end");
        let parameters = parameters.split(',').map(|parameter| {
            if parameter.contains("[128]") {
                Parameter::Map
            } else if parameter.contains(".u64") {
                Parameter::Pointer
            } else {
                let word = [".u32", ".s32", ".f32"]
                    .iter()
                    .any(|of| parameter.contains(of));
                assert!(word, "{kernel}: {parameter}");
                Parameter::Word
            }
        });
        let (head, _) = text.split_once('{').expect("a body begins");
        let threads = head.split_once(".maxntid").and_then(|(_, numbers)| {
            let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
            numbers.find(|number| !number.is_empty())?.parse().ok()
        });
        (parameters.collect(), threads.unwrap_or(1024))
    }

    /// That every launch is of a kernel that there is, with the arguments that it takes and no more threads than it was
    /// compiled for.
    pub(crate) fn check_signatures(program: &Program) {
        for launch in program.launches() {
            let arguments: Vec<_> = (launch.arguments.iter())
                .map(|argument| match argument {
                    Argument::Null | Argument::Read(_) | Argument::Write(_) => Parameter::Pointer,
                    Argument::Word(_) => Parameter::Word,
                    Argument::ReadMap(_) | Argument::WriteMap(_) => Parameter::Map,
                })
                .collect();
            let (parameters, threads) = signature(launch.source, &launch.kernel);
            assert_eq!(arguments, parameters, "{}", launch.kernel);
            assert!(launch.grid.threads <= threads, "{}", launch.kernel);
        }
    }

    #[test]
    fn kernels_run_where_they_were_built_for() {
        for (built_for, card, runs) in [
            ("80", (8, 0), true),
            ("80", (9, 0), true),
            ("90a", (9, 0), true),
            ("90a", (10, 0), false),
            ("90a", (8, 0), false),
            ("86", (8, 0), false),
            ("120f", (12, 0), true),
            ("", (9, 0), false),
        ] {
            assert_eq!(runs_on(built_for, card), runs, "{built_for} on {card:?}");
        }
    }

    #[test]
    fn every_source_has_kernels() {
        for source in [
            Source::Image,
            Source::Text,
            Source::Lstm,
            Source::Crf,
            Source::Matmul,
            Source::MatmulSm90,
        ] {
            assert!(source.ptx().contains(".entry"), "{source:?}");
        }
    }
}
