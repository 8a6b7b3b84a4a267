//! From a program to what the driver takes: kernels by their handles, places by their addresses.

use std::{
    ffi::c_void,
    mem::MaybeUninit,
    ptr::{from_mut, from_ref, null_mut},
    sync::Arc,
};

use candle_core::{
    Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaGraph, CudaStream, sys},
    },
};

use super::{
    Argument, Boxes, Element, Gpu, Grid, Map, Patches, Program, Swizzle, Work,
    early::spreads,
    kernels::Function,
    library::{Averaging, Convolving, Multiplication},
    memory::{Memory, Recording},
    program::Launch,
};

/// Something that can be started.
enum Ready {
    Kernel(Kernel),
    Multiplication(Multiplication),
    Convolving(Convolving),
    Averaging(Averaging),
}

/// A launch that the driver can be given.
struct Kernel {
    name: String,
    function: Function,
    grid: Grid,
    arguments: Vec<Value>,
    /// Whether all blocks run at once.
    together: bool,
    /// Whether it may set itself up while the kernel before it ends.
    early: bool,
}

/// An argument as a kernel finds it; numbers are in the first bytes.
enum Value {
    Word(u64),
    Map(Box<sys::CUtensorMap>),
}

/// A program, ready to be started on a device.
pub(super) struct Launches {
    ready: Vec<Ready>,
}

impl Launches {
    /// Loads the kernels, works out the addresses and has the libraries choose their algorithms; the device is the calling
    /// thread's.
    ///
    /// # Errors
    /// There is no such kernel for this card, a library cannot do what it is to, or a span is outside the memory.
    pub(super) fn new(gpu: &Gpu, program: &Program, memory: Memory<'_>) -> Result<Self> {
        // What stands before the first is not ours, and where a library's work ends is the library's to know.
        let (mut before, take_turns) = (None, gpu.kernels_take_turns());
        let ready = |work: &Work| {
            let before = std::mem::replace(&mut before, work.blocks().filter(|_| take_turns));
            match work {
                Work::Launch(launch) => Kernel::new(gpu, launch, before, memory).map(Ready::Kernel),
                Work::Product(product) => {
                    Multiplication::new(gpu, product, memory).map(Ready::Multiplication)
                }
                Work::Convolution(convolution) => {
                    Convolving::new(gpu, convolution, memory).map(Ready::Convolving)
                }
                Work::Average(values) => {
                    Averaging::new(gpu, Some(*values), memory).map(Ready::Averaging)
                }
                Work::Join => Averaging::new(gpu, None, memory).map(Ready::Averaging),
            }
        };
        Ok(Self {
            ready: program.work().iter().map(ready).collect::<Result<_>>()?,
        })
    }

    /// Starts all of them, in order; the device is the calling thread's.
    ///
    /// # Errors
    /// The driver or a library refuses one.
    ///
    /// # Safety
    /// The memory that they were made for is there until the stream has been waited for, and nobody else uses that of
    /// the pass.
    pub(super) unsafe fn start(&self, stream: &CudaStream) -> Result<()> {
        let mut addresses = Vec::new();
        for ready in &self.ready {
            // SAFETY: the memory is the caller's to vouch for. Where kernels overlap, each waits for those before it; what a
            // library starts keeps to the order of the stream.
            unsafe {
                match ready {
                    Ready::Kernel(kernel) => kernel.start(stream, &mut addresses)?,
                    Ready::Multiplication(multiplication) => multiplication.start(stream)?,
                    Ready::Convolving(convolving) => convolving.start(stream)?,
                    Ready::Averaging(averaging) => averaging.start(stream)?,
                }
            }
        }
        Ok(())
    }

    /// Records all of them, to be started at once.
    ///
    /// # Errors
    /// The driver refuses.
    ///
    /// # Safety
    /// As [`Self::start`], whenever the graph runs.
    pub(super) unsafe fn record(
        &self,
        stream: &Arc<CudaStream>,
        _recording: &Recording,
    ) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let averages = |ready: &Ready| matches!(ready, Ready::Averaging(_));
        let flags = if self.ready.iter().any(averages) {
            // They go before what computes, as on their stream.
            sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY
        } else {
            sys::CUgraphInstantiate_flags(0)
        };
        stream.begin_capture(mode).w()?;
        // SAFETY: as the caller's.
        let started = unsafe { self.start(stream) };
        // The capture ends whatever happened within it.
        let graph = stream.end_capture(flags).w();
        started?;
        match graph? {
            Some(graph) => Ok(Graph(graph)),
            None => bail!("expected launches to record, got none"),
        }
    }
}

impl Kernel {
    /// After a kernel of so many blocks, if it may begin before that one has ended.
    fn new(gpu: &Gpu, launch: &Launch, before: Option<usize>, memory: Memory<'_>) -> Result<Self> {
        let value = |argument: &Argument| match *argument {
            Argument::Null => Ok(Value::Word(0)),
            Argument::Word(word) => Ok(Value::Word(word.into())),
            Argument::Read(span) | Argument::Write(span) => memory.address(span).map(Value::Word),
            Argument::ReadMap(map) | Argument::WriteMap(map) => {
                encode(map, memory.address(map.span)?).map(|map| Value::Map(Box::new(map)))
            }
            Argument::ReadBoxes(boxes) | Argument::WriteBoxes(boxes) => {
                let address = memory.address(boxes.span)?;
                encode_boxes(&boxes, address).map(|map| Value::Map(Box::new(map)))
            }
            Argument::ReadPatches(patches) => {
                let address = memory.address(patches.span)?;
                encode_patches(&patches, address).map(|map| Value::Map(Box::new(map)))
            }
        };
        let function = gpu.function(launch.source, &launch.kernel, launch.grid)?;
        let (blocks, room) = (launch.grid.count(), function.room);
        if launch.together && blocks > room {
            let name = &launch.kernel;
            bail!("expected room for {blocks} blocks of {name} at once, the card has it for {room}")
        }
        let processors = gpu.target().processors;
        let early = before.is_some_and(|before| spreads(before, blocks, room, processors));
        Ok(Self {
            name: launch.kernel.clone(),
            function,
            grid: launch.grid,
            arguments: launch.arguments.iter().map(value).collect::<Result<_>>()?,
            together: launch.together,
            early,
        })
    }

    /// Starts it. `addresses` are for any launch's use.
    ///
    /// # Safety
    /// As [`Launches::start`], and it waits by itself where it overlaps.
    unsafe fn start(&self, stream: &CudaStream, addresses: &mut Vec<*mut c_void>) -> Result<()> {
        // Blocks that wait for each other start all at once, when what ran before and what runs beside has left room for them.
        let (id, value) = if self.together {
            let cooperative = sys::CUlaunchAttributeValue { cooperative: 1 };
            (
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
                cooperative,
            )
        } else {
            let early = sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            };
            (
                sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                early,
            )
        };
        let mut attribute = sys::CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        };
        addresses.clear();
        addresses.extend(self.arguments.iter().map(|argument| match argument {
            Value::Word(word) => from_ref(word).cast_mut().cast(),
            Value::Map(map) => from_ref(&**map).cast_mut().cast(),
        }));
        let [x, y, z] = self.grid.blocks.map(|blocks| blocks as u32);
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: self.grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.grid.shared,
            hStream: stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: (self.early || self.together).into(),
        };
        // SAFETY: whoever pushed the launch promised its arguments; the driver reads them before the call returns. The
        // rest is the caller's to vouch for.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function.handle,
                addresses.as_mut_ptr(),
                null_mut(),
            )
        }
        .result()
        .w()
        .map_err(|error| error.context(self.name.clone()))
    }
}

/// A recorded program.
pub(super) struct Graph(CudaGraph);

// SAFETY: a graph must not be used by two threads at once, and nobody but its lane's pass has it.
unsafe impl Send for Graph {}

impl Graph {
    /// Starts it on the stream that it was recorded on.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn start(&self) -> Result<()> {
        self.0.launch().w()
    }

    /// Has all on the device that its first start needs.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn upload(&self) -> Result<()> {
        self.0.upload().w()
    }
}

fn encode(map: Map, address: sys::CUdeviceptr) -> Result<sys::CUtensorMap> {
    let [rows, columns] = map.tile;
    let boxes = Boxes {
        span: map.span,
        rank: 2,
        dimensions: [map.columns, map.rows, 0, 0, 0],
        strides: [1, map.pitch, 0, 0, 0],
        tile: [columns, rows, 0, 0, 0],
        swizzle: map.swizzle,
    };
    encode_boxes(&boxes, address)
}

fn encode_boxes(boxes: &Boxes, address: sys::CUdeviceptr) -> Result<sys::CUtensorMap> {
    let size = Element::F16.size() as u64;
    let dimensions = boxes.dimensions.map(|places| places as u64);
    let strides = boxes.strides.map(|values| values as u64 * size);
    let mut encoded = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: the arrays are of the rank or more, and are read before the call returns; the innermost dimension has no stride.
    // What they describe lies within its span.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            from_mut(&mut encoded).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            boxes.rank as u32,
            address as *mut c_void,
            dimensions.as_ptr(),
            strides[1..].as_ptr(),
            boxes.tile.as_ptr(),
            [1; 5].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            match boxes.swizzle {
                Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
                Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
                Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            },
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .w()?;
    // SAFETY: the call succeeded, so it wrote all of it.
    Ok(unsafe { encoded.assume_init() })
}

fn encode_patches(patches: &Patches, address: sys::CUdeviceptr) -> Result<sys::CUtensorMap> {
    let size = Element::F16.size() as u64;
    let [height, width] = patches.size;
    let dimensions = [patches.channels, width, height, patches.images].map(|count| count as u64);
    let pixel = patches.pitch as u64 * size;
    let strides = [pixel, pixel * width as u64, pixel * (width * height) as u64];
    let window = patches.window;
    // Across and down, as the dimensions. The first window begins so many pixels before the image, and the last so many
    // before its end.
    let before = [1, 0].map(|axis| -(window.padding[axis] as i32));
    let after = [1, 0].map(|axis| window.padding[axis] as i32 - (window.kernel[axis] as i32 - 1));
    let steps = [1, window.stride[1] as u32, window.stride[0] as u32, 1];
    let [windows, channels] = patches.tile;
    let mut encoded = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: as in `encode`; corners are of the two inner dimensions.
    unsafe {
        sys::cuTensorMapEncodeIm2col(
            from_mut(&mut encoded).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            dimensions.len() as u32,
            address as *mut c_void,
            dimensions.as_ptr(),
            strides.as_ptr(),
            before.as_ptr(),
            after.as_ptr(),
            channels,
            windows,
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .w()?;
    // SAFETY: the call succeeded, so it wrote all of it.
    Ok(unsafe { encoded.assume_init() })
}
