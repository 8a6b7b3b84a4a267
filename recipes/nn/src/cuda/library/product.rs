//! Products by cublasLt.
//!
//! Columns of its matrices are in one piece, as rows of ours are: what it sees is each matrix turned. So it is given the second
//! operand first, and what it makes of them is our result, turned.

use std::{fmt, mem::MaybeUninit, ptr::from_ref};

use candle_core::{
    Error, Result,
    cuda_backend::cudarc::{
        cublaslt::{
            result::{self, CublasError},
            sys,
        },
        driver::{CudaStream, sys::CUdeviceptr},
    },
};

use super::choice::fastest;
use crate::{
    cuda::{
        Buffer, Element, Gpu, Matrix, Product,
        handles::{Lt, ProductKey},
        memory::Memory,
    },
    ops::Onto,
};

type Answer<T> = std::result::Result<T, CublasError>;

/// Algorithms that are measured, at most.
const MOST: usize = 8;

/// A product that can be started.
pub(in crate::cuda) struct Multiplication {
    described: Described,
    /// Of `a`, `b` and `c`.
    addresses: [CUdeviceptr; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// What it works in, and how many bytes that has.
    workspace: (CUdeviceptr, usize),
}

impl Multiplication {
    /// Describes a product to the library and has its algorithm chosen; the device is the calling thread's.
    ///
    /// # Errors
    /// The library cannot compute it, or a span is outside the memory.
    pub(in crate::cuda) fn new(gpu: &Gpu, product: &Product, memory: Memory<'_>) -> Result<Self> {
        let workspace = memory.workspace()?;
        let address = |matrix: &Matrix| memory.address(matrix.span);
        let addresses = [
            address(&product.a)?,
            address(&product.b)?,
            address(&product.c)?,
        ];
        let bias = product.bias.map(|bias| memory.address(bias)).transpose()?;
        let refused = |error| refused(product, error);
        let mut products = gpu.handles().products();
        let handle = products.handle().map_err(refused)?;
        let tf32 = gpu.rounds_to_tf32() && product.a.element == Element::F32;
        let described = Described::new(handle, product, bias, tf32).map_err(refused)?;
        let alignments = addresses.map(alignment);
        let key = key(product, alignments, (workspace.1, tf32));
        let algorithm = match products.chosen.get(&key) {
            Some(algorithm) => *algorithm,
            None => {
                let algorithms = described.algorithms(workspace.1, alignments);
                let algorithm = described.fastest(gpu, &algorithms.map_err(refused)?)?;
                products.chosen.insert(key, algorithm);
                algorithm
            }
        };
        Ok(Self {
            described,
            addresses,
            algorithm,
            workspace,
        })
    }

    /// Starts it; the device is the calling thread's.
    ///
    /// # Errors
    /// The library refuses.
    ///
    /// # Safety
    /// The memory that it was made for is there until the stream has been waited for, and nobody else uses what it writes.
    pub(in crate::cuda) unsafe fn start(&self, stream: &CudaStream) -> Result<()> {
        // SAFETY: the algorithm was chosen for this; the rest is the caller's to vouch for.
        unsafe { (self.described).start(self.addresses, &self.algorithm, self.workspace, stream) }
    }
}

/// What the choice of an algorithm hangs on.
fn key(product: &Product, [a, b, c]: [u32; 3], (workspace, tf32): (usize, bool)) -> ProductKey {
    let of = |matrix: &Matrix, alignment| (matrix.element, matrix.pitch, matrix.turned, alignment);
    ProductKey {
        sizes: product.sizes,
        matrices: [of(&product.a, a), of(&product.b, b), of(&product.c, c)],
        biased: product.bias.is_some(),
        onto: product.onto,
        workspace,
        tf32,
    }
}

/// A product in the library's words.
struct Described {
    product: Product,
    handle: Lt,
    operation: Operation,
    /// Of `a`, `b` and `c`.
    layouts: [Layout; 3],
}

// SAFETY: descriptors are plain memory of the library's, which one thread at a time uses.
unsafe impl Send for Described {}

impl Described {
    fn new(handle: Lt, product: &Product, bias: Option<CUdeviceptr>, tf32: bool) -> Answer<Self> {
        let [rows, columns, depth] = product.sizes;
        Ok(Self {
            product: *product,
            handle,
            operation: Operation::new(product, bias, tf32)?,
            layouts: [
                Layout::new(&product.a, [rows, depth])?,
                Layout::new(&product.b, [depth, columns])?,
                Layout::new(&product.c, [rows, columns])?,
            ],
        })
    }

    /// The algorithms that work in so many bytes, on operands that are aligned so, the best first as the library believes.
    fn algorithms(
        &self,
        workspace: usize,
        alignments: [u32; 3],
    ) -> Answer<Vec<sys::cublasLtMatmulHeuristicResult_t>> {
        let preference = Preference::new(workspace, alignments)?;
        let [a, b, c] = self.layouts.each_ref().map(|layout| layout.0);
        let mut found = [MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); MOST];
        let mut count = 0;
        // SAFETY: all that is described is there, and so is a place for so many.
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                self.operation.0,
                b,
                a,
                c,
                c,
                preference.0,
                MOST as i32,
                found.as_mut_ptr().cast(),
                &raw mut count,
            )
        }
        .result()?;
        let found = found.iter().take(count.max(0) as usize);
        // SAFETY: the library has written so many.
        Ok(found.map(|found| unsafe { found.assume_init() }).collect())
    }

    /// The one of some algorithms that is the fastest here.
    ///
    /// # Errors
    /// None works, or there is too little memory to try them.
    fn fastest(
        &self,
        gpu: &Gpu,
        algorithms: &[sys::cublasLtMatmulHeuristicResult_t],
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        let Product { a, b, c, .. } = &self.product;
        let filled = |matrix: &Matrix| Buffer::filled(gpu, matrix.span.bytes);
        let (a, b, c) = (filled(a)?, filled(b)?, filled(c)?);
        let addresses = [a.address(), b.address(), c.address()];
        let most = algorithms.iter().map(|found| found.workspaceSize).max();
        let workspace = Buffer::new(gpu, most.unwrap_or(0))?;
        let workspace = (workspace.address(), workspace.bytes());
        let place = fastest(gpu, algorithms, |found, stream| {
            // SAFETY: the library gave the algorithm for this. The memory is as large as it asks for, nobody else has it, and
            // it is given back when nothing runs any more.
            unsafe { self.start(addresses, &found.algo, workspace, stream) }
        })?;
        let none = CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        match place.and_then(|place| algorithms.get(place)) {
            Some(found) => Ok(found.algo),
            None => Err(refused(&self.product, none)),
        }
    }

    /// # Safety
    /// The library gave the algorithm for this product, and until the stream has been waited for, its matrices are at these
    /// addresses, and nobody else uses the result and what the algorithm works in.
    unsafe fn start(
        &self,
        [a, b, c]: [CUdeviceptr; 3],
        algorithm: &sys::cublasLtMatmulAlgo_t,
        (workspace, bytes): (CUdeviceptr, usize),
        stream: &CudaStream,
    ) -> Result<()> {
        let [a_layout, b_layout, c_layout] = self.layouts.each_ref().map(|layout| layout.0);
        let one = 1f32;
        let beta = match self.product.onto {
            Onto::Write => 0f32,
            Onto::Add => 1.0,
        };
        // SAFETY: all of it is described as it lies within spans, as the product was checked when it was added; factors
        // are read before the call returns. The rest is the caller's to vouch for.
        let started = unsafe {
            result::matmul(
                self.handle.0,
                self.operation.0,
                from_ref(&one).cast(),
                from_ref(&beta).cast(),
                b as *const _,
                b_layout,
                a as *const _,
                a_layout,
                c as *const _,
                c_layout,
                c as *mut _,
                c_layout,
                algorithm,
                workspace as *mut _,
                bytes,
                stream.cu_stream().cast(),
            )
        };
        started.map_err(|error| refused(&self.product, error))
    }
}

fn refused(product: &Product, error: CublasError) -> Error {
    Error::Msg(format!("cublasLt cannot compute {product}: {error}")).bt()
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a, b, c, .. } = self;
        let [rows, columns, depth] = self.sizes;
        let turned = |matrix: &Matrix| if matrix.turned { " turned" } else { "" };
        write!(
            f,
            "a product of [{rows}, {depth}]{} by [{depth}, {columns}]{} in rows of {}, {} and {} values, {} to {}{}{}",
            turned(a),
            turned(b),
            a.pitch,
            b.pitch,
            c.pitch,
            a.element.name(),
            c.element.name(),
            if self.bias.is_some() {
                ", with a bias"
            } else {
                ""
            },
            match self.onto {
                Onto::Write => "",
                Onto::Add => ", added to what is there",
            },
        )
    }
}

/// The largest power of two that an address is a multiple of, as far as the library asks.
fn alignment(address: CUdeviceptr) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// What is computed. The library's first operand is `b`.
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn new(product: &Product, bias: Option<CUdeviceptr>, tf32: bool) -> Answer<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = if tf32 {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let scale = sys::cudaDataType::CUDA_R_32F;
        let operation = Self(result::create_matmul_desc(compute, scale)?);
        // `cublasOperation_t`: 0 as it is, 1 turned.
        let turned = |matrix: &Matrix| i32::from(matrix.turned);
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, turned(&product.b))?;
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, turned(&product.a))?;
        if let Some(bias) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
        }
        Ok(operation)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: T) -> Answer<()> {
        let value: *const T = &raw const value;
        // SAFETY: the description is there; the value is read before the call returns.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, value.cast(), size_of::<T>())
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: the library gave it, and nobody has it any more.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// How a matrix lies in memory.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    /// Of so many rows and columns.
    fn new(matrix: &Matrix, [rows, columns]: [usize; 2]) -> Answer<Self> {
        let element = match matrix.element {
            Element::F16 => sys::cudaDataType::CUDA_R_16F,
            Element::F32 => sys::cudaDataType::CUDA_R_32F,
        };
        let [rows, columns] = if matrix.turned {
            [columns, rows]
        } else {
            [rows, columns]
        };
        let (rows, columns) = (rows as u64, columns as u64);
        let pitch = matrix.pitch as i64;
        // What is a row to us is a column to the library.
        Ok(Self(result::create_matrix_layout(
            element, columns, rows, pitch,
        )?))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the library gave it, and nobody has it any more.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// Which algorithms will do.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    /// Such as work in so many bytes, on operands that are aligned so. Parts of a sum are added in f32, and in one order.
    fn new(workspace: usize, [a, b, c]: [u32; 3]) -> Answer<Self> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Self(result::create_matmul_pref()?);
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        preference.set(
            Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            workspace as u64,
        )?;
        preference.set(
            Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            scheme as u32,
        )?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c)?;
        Ok(preference)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: T) -> Answer<()> {
        let value: *const T = &raw const value;
        // SAFETY: as in `Operation::set`.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, value.cast(), size_of::<T>())
        }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the library gave it, and nobody has it any more.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
