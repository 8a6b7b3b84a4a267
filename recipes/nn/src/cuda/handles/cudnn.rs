//! cuDNN, which a build does not need: it is looked for at run time, and its functions are declared here as its headers have
//! them (`cudnn_ops.h`, `cudnn_cnn.h`).

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::forget,
    ptr::null_mut,
};

use candle_core::cuda_backend::cudarc::driver::{CudaStream, sys::CUdeviceptr};
use libloading::Library;

use crate::cuda::{Element, Geometry, Way};

/// The versions that have what is called.
const NAMES: [&str; 2] = ["libcudnn.so.9", "libcudnn.so.8"];
/// Algorithms of one way, at most.
const MOST: usize = 16;

/// `cudnnDataType_t`.
const FLOAT: c_int = 0;
const HALF: c_int = 2;
/// `cudnnTensorFormat_t`: channels last.
const NHWC: c_int = 1;
/// `cudnnConvolutionMode_t`: filters are not turned.
const CROSS_CORRELATION: c_int = 1;
/// `cudnnMathType_t`: products of f16 on the tensor cores, and of f32 as they are, not rounded to TF32.
const TENSOR_OP: c_int = 1;
const FMA: c_int = 3;
/// `cudnnDeterminism_t`.
const DETERMINISTIC: c_int = 1;

/// `cudnnStatus_t`; zero is success.
type Status = c_int;
type Handle = *mut c_void;
type Described = *mut c_void;
type Values = *mut c_void;

/// `cudnnConvolution{Fwd,BwdData,BwdFilter}AlgoPerf_t`, which are one.
#[derive(Clone, Copy)]
#[repr(C)]
struct Performance {
    algorithm: c_int,
    status: Status,
    _time: f32,
    memory: usize,
    determinism: c_int,
    math: c_int,
    _reserved: [c_int; 3],
}

macro_rules! functions {
    ($($name:ident: $symbol:literal($($argument:ty),*) -> $result:ty;)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            /// # Safety
            /// The library is cuDNN, and stays loaded.
            unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the headers declare it so.
                    $($name: *unsafe { library.get($symbol) }?,)*
                })
            }
        }
    };
}

functions! {
    text: "cudnnGetErrorString"(Status) -> *const c_char;
    create: "cudnnCreate"(*mut Handle) -> Status;
    set_stream: "cudnnSetStream"(Handle, *mut c_void) -> Status;
    create_tensor: "cudnnCreateTensorDescriptor"(*mut Described) -> Status;
    set_tensor: "cudnnSetTensor4dDescriptor"(Described, c_int, c_int, c_int, c_int, c_int, c_int) -> Status;
    destroy_tensor: "cudnnDestroyTensorDescriptor"(Described) -> Status;
    create_filter: "cudnnCreateFilterDescriptor"(*mut Described) -> Status;
    set_filter: "cudnnSetFilter4dDescriptor"(Described, c_int, c_int, c_int, c_int, c_int, c_int) -> Status;
    destroy_filter: "cudnnDestroyFilterDescriptor"(Described) -> Status;
    create_window: "cudnnCreateConvolutionDescriptor"(*mut Described) -> Status;
    set_window: "cudnnSetConvolution2dDescriptor"(
        Described, c_int, c_int, c_int, c_int, c_int, c_int, c_int, c_int
    ) -> Status;
    set_groups: "cudnnSetConvolutionGroupCount"(Described, c_int) -> Status;
    set_math: "cudnnSetConvolutionMathType"(Described, c_int) -> Status;
    destroy_window: "cudnnDestroyConvolutionDescriptor"(Described) -> Status;
    find_forward: "cudnnGetConvolutionForwardAlgorithm_v7"(
        Handle, Described, Described, Described, Described, c_int, *mut c_int, *mut Performance
    ) -> Status;
    find_input: "cudnnGetConvolutionBackwardDataAlgorithm_v7"(
        Handle, Described, Described, Described, Described, c_int, *mut c_int, *mut Performance
    ) -> Status;
    find_weight: "cudnnGetConvolutionBackwardFilterAlgorithm_v7"(
        Handle, Described, Described, Described, Described, c_int, *mut c_int, *mut Performance
    ) -> Status;
    forward: "cudnnConvolutionForward"(
        Handle, *const f32, Described, Values, Described, Values, Described, c_int, Values, usize, *const f32, Described, Values
    ) -> Status;
    input: "cudnnConvolutionBackwardData"(
        Handle, *const f32, Described, Values, Described, Values, Described, c_int, Values, usize, *const f32, Described, Values
    ) -> Status;
    weight: "cudnnConvolutionBackwardFilter"(
        Handle, *const f32, Described, Values, Described, Values, Described, c_int, Values, usize, *const f32, Described, Values
    ) -> Status;
}

/// The library and its handle. Errors are its own words.
pub(in crate::cuda) struct Cudnn {
    functions: Functions,
    handle: Handle,
}

// SAFETY: the handle may be used from any thread, by one at a time.
unsafe impl Send for Cudnn {}

/// A descriptor, and what ends it.
struct Descriptor {
    raw: Described,
    destroy: unsafe extern "C" fn(Described) -> Status,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the library gave it, and nobody uses it any more.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// A convolution in the library's words.
pub(in crate::cuda) struct Description {
    /// Of `x`, `weight` and `y`.
    values: [Descriptor; 3],
    window: Descriptor,
    element: Element,
}

// SAFETY: descriptors are plain memory of the library's, used by one thread at a time.
unsafe impl Send for Description {}

/// A way to compute a convolution.
#[derive(Clone, Copy, Debug)]
pub(in crate::cuda) struct Algorithm {
    number: c_int,
    math: c_int,
    /// Bytes that it works in.
    pub(in crate::cuda) workspace: usize,
}

/// Where a convolution's values are.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Addresses {
    /// Of `x`, `weight` and `y`.
    pub(in crate::cuda) values: [CUdeviceptr; 3],
    /// Of what the algorithm works in.
    pub(in crate::cuda) workspace: CUdeviceptr,
}

impl Cudnn {
    /// The library, if there is one that can be used; the device is the calling thread's.
    pub(in crate::cuda) fn load() -> Option<Self> {
        // SAFETY: a library of this name is cuDNN, whose initialisation asks for nothing.
        let mut found = (NAMES.into_iter()).filter_map(|name| unsafe { Library::new(name) }.ok());
        let library = found.next()?;
        // SAFETY: it is never unloaded, see below.
        let functions = unsafe { Functions::of(&library) }.ok();
        forget(library);
        let functions = functions?;
        let mut handle = null_mut();
        // SAFETY: the handle has a place.
        let created = unsafe { (functions.create)(&raw mut handle) };
        (created == 0).then_some(Self { functions, handle })
    }

    /// A success, or what the library says of it.
    fn result(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the library has a constant text for any number.
        let text = unsafe { CStr::from_ptr((self.functions.text)(status)) };
        Err(text.to_string_lossy().into_owned())
    }

    fn descriptor(
        &self,
        create: unsafe extern "C" fn(*mut Described) -> Status,
        destroy: unsafe extern "C" fn(Described) -> Status,
    ) -> Result<Descriptor, String> {
        let mut raw = null_mut();
        // SAFETY: the descriptor has a place.
        self.result(unsafe { create(&raw mut raw) })?;
        Ok(Descriptor { raw, destroy })
    }

    /// Describes a convolution.
    ///
    /// # Errors
    /// The library does not take such a one.
    pub(in crate::cuda) fn describe(&self, geometry: &Geometry) -> Result<Description, String> {
        let Geometry {
            element,
            images,
            from,
            to,
            window,
            groups,
        } = *geometry;
        let functions = &self.functions;
        let int = |number: usize| {
            c_int::try_from(number).map_err(|_| format!("expected an int, got {number}"))
        };
        let (kind, math) = match element {
            Element::F16 => (HALF, TENSOR_OP),
            Element::F32 => (FLOAT, FMA),
        };
        let tensor = |shape: crate::graph::Shape| {
            let of = self.descriptor(functions.create_tensor, functions.destroy_tensor)?;
            let [n, c, h, w] = [images, shape.channels, shape.height, shape.width].map(int);
            // SAFETY: a tensor's descriptor.
            self.result(unsafe { (functions.set_tensor)(of.raw, NHWC, kind, n?, c?, h?, w?) })?;
            Ok::<_, String>(of)
        };
        let filter = self.descriptor(functions.create_filter, functions.destroy_filter)?;
        let [down, across] = window.kernel;
        let [k, c, h, w] = [to.channels, from.channels / groups, down, across].map(int);
        // SAFETY: a filter's descriptor.
        self.result(unsafe { (functions.set_filter)(filter.raw, kind, NHWC, k?, c?, h?, w?) })?;
        let moved = self.descriptor(functions.create_window, functions.destroy_window)?;
        let [[top, left], [by_lines, by_pixels]] =
            [window.padding, window.stride].map(|pair| pair.map(int));
        // SAFETY: a convolution's descriptor, here and below.
        self.result(unsafe {
            (functions.set_window)(
                moved.raw,
                top?,
                left?,
                by_lines?,
                by_pixels?,
                1,
                1,
                CROSS_CORRELATION,
                FLOAT,
            )
        })?;
        // SAFETY: as above.
        self.result(unsafe { (functions.set_groups)(moved.raw, int(groups)?) })?;
        // SAFETY: as above.
        self.result(unsafe { (functions.set_math)(moved.raw, math) })?;
        Ok(Description {
            values: [tensor(from)?, filter, tensor(to)?],
            window: moved,
            element,
        })
    }

    /// The algorithms that give the same bits each time, within so many bytes of memory, the best first as the library
    /// believes.
    ///
    /// # Errors
    /// The library knows none at all.
    pub(in crate::cuda) fn algorithms(
        &self,
        way: Way,
        description: &Description,
        workspace: usize,
    ) -> Result<Vec<Algorithm>, String> {
        let find = match way {
            Way::Forward => self.functions.find_forward,
            Way::Input => self.functions.find_input,
            Way::Weight => self.functions.find_weight,
        };
        let [first, second, result] = way.order(description.values.each_ref());
        let window = description.window.raw;
        let none = Performance {
            algorithm: 0,
            status: 1,
            _time: 0.0,
            memory: 0,
            determinism: 0,
            math: 0,
            _reserved: [0; 3],
        };
        let mut performances = [none; MOST];
        let mut count = 0;
        // SAFETY: descriptors of the kinds that it takes, in its order, and a place for so many results.
        self.result(unsafe {
            find(
                self.handle,
                first.raw,
                second.raw,
                window,
                result.raw,
                MOST as c_int,
                &raw mut count,
                performances.as_mut_ptr(),
            )
        })?;
        let performances = performances.iter().take(count.max(0) as usize);
        let good = performances.filter(|performance| {
            performance.status == 0
                && performance.determinism == DETERMINISTIC
                && performance.memory <= workspace
        });
        let algorithms = good.map(|performance| Algorithm {
            number: performance.algorithm,
            math: performance.math,
            workspace: performance.memory,
        });
        Ok(algorithms.collect())
    }

    /// Starts a convolution; the device is the calling thread's.
    ///
    /// # Errors
    /// The library refuses.
    ///
    /// # Safety
    /// The algorithm is one that the library gave for this way and description, and until the stream has been waited for
    /// the values and as much memory as it works in are at the addresses, and nobody else uses the result and that
    /// memory.
    pub(in crate::cuda) unsafe fn start(
        &self,
        (way, description): (Way, &Description),
        algorithm: Algorithm,
        addresses: Addresses,
        add: bool,
        stream: &CudaStream,
    ) -> Result<(), String> {
        let functions = &self.functions;
        if description.element == Element::F16 {
            // SAFETY: a convolution's descriptor.
            self.result(unsafe { (functions.set_math)(description.window.raw, algorithm.math) })?;
        }
        // SAFETY: the stream is there.
        self.result(unsafe { (functions.set_stream)(self.handle, stream.cu_stream().cast()) })?;
        let start = match way {
            Way::Forward => functions.forward,
            Way::Input => functions.input,
            Way::Weight => functions.weight,
        };
        let [first, second, result] = way.order(description.values.each_ref());
        let values = addresses.values.map(|address| address as Values);
        let [from, with, to] = way.order(values);
        let (one, beta) = (1f32, f32::from(u8::from(add)));
        // SAFETY: descriptors of the kinds that it takes, in its order; factors are read before the call returns. The memory
        // is the caller's to vouch for.
        self.result(unsafe {
            start(
                self.handle,
                &raw const one,
                first.raw,
                from,
                second.raw,
                with,
                description.window.raw,
                algorithm.number,
                addresses.workspace as Values,
                algorithm.workspace,
                &raw const beta,
                result.raw,
                to,
            )
        })
    }
}
