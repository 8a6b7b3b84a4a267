//! The vendor's libraries, as a device has them: their handles, and which of their algorithms was chosen for what.

mod convolution;
mod cudnn;
mod nccl;
mod nvjpeg;
mod words;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use candle_core::cuda_backend::cudarc::cublaslt::{
    result::{self, CublasError},
    sys,
};

use super::{Element, Geometry, Way, memory::alone};
use crate::ops::Onto;

pub(super) use convolution::Plan;
use cudnn::Cudnn;
pub(super) use cudnn::Descriptor;
pub(super) use nccl::Communicator;
pub(super) use nvjpeg::{Job, NvJpeg, State};

/// Functions of a library that is looked for at run time, under names of ours.
macro_rules! functions {
    ($($name:ident: $symbol:literal($($argument:ty),*) -> $result:ty;)*) => {
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// # Safety
            /// The library's headers declare them so, and it stays loaded.
            unsafe fn of(
                library: &libloading::Library,
            ) -> std::result::Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: as the caller's.
                    $($name: *unsafe { library.get($symbol) }?,)*
                })
            }
        }
    };
}
use functions;

/// Handles, made when they are first asked for. They are kept for as long as the process lives.
#[derive(Default)]
pub(super) struct Handles {
    products: Mutex<Products>,
    cudnn: OnceLock<Option<Mutex<Convolutions>>>,
    nvjpeg: OnceLock<Option<NvJpeg>>,
}

/// What computes products.
#[derive(Default)]
pub(super) struct Products {
    handle: Option<Lt>,
    pub(super) chosen: HashMap<ProductKey, sys::cublasLtMatmulAlgo_t>,
}

/// cublasLt's handle.
#[derive(Clone, Copy)]
pub(super) struct Lt(pub(super) sys::cublasLtHandle_t);

// SAFETY: the library's handle may be used from any thread, by several at once.
unsafe impl Send for Lt {}

/// What the choice of an algorithm hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProductKey {
    pub(super) sizes: [usize; 3],
    /// Of `a`, `b` and `c` what they are of, the pitch, whether they are turned, and to how many bytes they are aligned.
    pub(super) matrices: [(Element, usize, bool, u32); 3],
    pub(super) biased: bool,
    pub(super) onto: Onto,
    /// Bytes to work in.
    pub(super) workspace: usize,
    pub(super) tf32: bool,
}

/// What computes convolutions.
pub(super) struct Convolutions {
    pub(super) cudnn: Cudnn,
    /// Also by whether f32 is rounded to TF32.
    pub(super) chosen: HashMap<(Geometry, Way, Onto, bool), Arc<Plan>>,
}

impl Handles {
    /// cublasLt; one at a time.
    pub(super) fn products(&self) -> MutexGuard<'_, Products> {
        lock(&self.products)
    }

    /// cuDNN, if there is one, one at a time; the device is the calling thread's.
    pub(super) fn convolutions(&self) -> Option<MutexGuard<'_, Convolutions>> {
        let convolutions = self.cudnn.get_or_init(|| {
            let _alone = alone();
            let chosen = HashMap::new();
            Cudnn::load().map(|cudnn| Mutex::new(Convolutions { cudnn, chosen }))
        });
        convolutions.as_ref().map(lock)
    }

    /// nvJPEG, if there is one; the device is the calling thread's.
    pub(super) fn nvjpeg(&self) -> Option<&NvJpeg> {
        let load = || {
            let _alone = alone();
            NvJpeg::load()
        };
        self.nvjpeg.get_or_init(load).as_ref()
    }
}

impl Products {
    /// The handle; the device is the calling thread's.
    ///
    /// # Errors
    /// The library refuses.
    pub(super) fn handle(&mut self) -> Result<Lt, CublasError> {
        match self.handle {
            Some(handle) => Ok(handle),
            None => {
                let _alone = alone();
                Ok(*self.handle.insert(Lt(result::create_handle()?)))
            }
        }
    }
}

/// What is under these locks is whole whatever happened to those that held them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
