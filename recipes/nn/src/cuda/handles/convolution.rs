//! Convolutions in cuDNN's words.
//!
//! The calls for a convolution by itself, which are older, know no tensor cores for gradients; so it is a graph of one
//! operation. The engines that can compute it are asked for, and become plans.

use std::{
    ffi::{c_int, c_void},
    sync::Arc,
};

use candle_core::cuda_backend::cudarc::driver::{CudaStream, sys::CUdeviceptr};

use super::{
    cudnn::{Cudnn, Descriptor, Raw, Value},
    words::{attribute, kind, value},
};
use crate::{
    cuda::{Element, Geometry, Way},
    graph::Shape,
};

/// Engines that are asked about, and of these the plans that are made.
const ENGINES: usize = 32;
const PLANS: usize = 4;
/// Bytes that values are aligned to.
const ALIGNMENT: usize = 16;

/// A way to compute a convolution.
pub(in crate::cuda) struct Plan {
    plan: Descriptor,
    /// Bytes that it works in.
    pub(in crate::cuda) workspace: usize,
    /// What it was made of.
    _engine: Descriptor,
    _convolution: Arc<Vec<Descriptor>>,
}

impl Cudnn {
    /// Values `[n, h, w, c]`, called by a number.
    fn values(
        &self,
        name: i64,
        element: Element,
        [n, h, w, c]: [usize; 4],
    ) -> Result<Descriptor, String> {
        let [n, h, w, c] = [n, h, w, c].map(|size| size as i64);
        let element = match element {
            Element::F16 => value::HALF,
            Element::F32 => value::SINGLE,
        };
        let values = self.make(kind::TENSOR)?;
        let alignment = [ALIGNMENT as i64];
        self.set(
            &values,
            attribute::TENSOR_TYPE,
            Value::Of(value::DATA_TYPE, element),
        )?;
        self.set(&values, attribute::TENSOR_SIZES, Value::Ints(&[n, c, h, w]))?;
        let strides = [h * w * c, 1, w * c, c];
        self.set(&values, attribute::TENSOR_STRIDES, Value::Ints(&strides))?;
        self.set(&values, attribute::TENSOR_NAME, Value::Ints(&[name]))?;
        self.set(
            &values,
            attribute::TENSOR_ALIGNMENT,
            Value::Ints(&alignment),
        )?;
        self.finish(values)
    }

    /// A convolution, or one of its gradients, and what that is made of; the last is the whole.
    fn convolution(
        &self,
        geometry: &Geometry,
        way: Way,
        add: bool,
    ) -> Result<Vec<Descriptor>, String> {
        let Geometry {
            element,
            images,
            from,
            to,
            window,
            groups,
        } = *geometry;
        let images = |shape: Shape| [images, shape.height, shape.width, shape.channels];
        let [down, across] = window.kernel;
        let x = self.values(0, element, images(from))?;
        let filters = [to.channels, down, across, from.channels / groups];
        let weight = self.values(1, element, filters)?;
        let y = self.values(2, element, images(to))?;

        let moved = self.make(kind::CONVOLUTION)?;
        let pair = |[down, across]: [usize; 2]| [down as i64, across as i64];
        let padding = pair(window.padding);
        let single = Value::Of(value::DATA_TYPE, value::SINGLE);
        let straight = Value::Of(value::CONVOLUTION_MODE, value::CROSS_CORRELATION);
        self.set(&moved, attribute::CONVOLUTION_TYPE, single)?;
        self.set(&moved, attribute::CONVOLUTION_MODE, straight)?;
        self.set(
            &moved,
            attribute::CONVOLUTION_DILATIONS,
            Value::Ints(&[1, 1]),
        )?;
        let stride = pair(window.stride);
        self.set(&moved, attribute::CONVOLUTION_STRIDES, Value::Ints(&stride))?;
        self.set(&moved, attribute::CONVOLUTION_BEFORE, Value::Ints(&padding))?;
        self.set(&moved, attribute::CONVOLUTION_AFTER, Value::Ints(&padding))?;
        self.set(&moved, attribute::CONVOLUTION_AXES, Value::Ints(&[2]))?;
        let moved = self.finish(moved)?;

        let (kind, names) = match way {
            Way::Forward => (kind::FORWARD, attribute::FORWARD),
            Way::Input => (kind::INPUT, attribute::INPUT),
            Way::Weight => (kind::WEIGHT, attribute::WEIGHT),
        };
        let operation = self.make(kind)?;
        self.set(&operation, names.factor, Value::Float(1.0))?;
        self.set(
            &operation,
            names.before,
            Value::Float(if add { 1.0 } else { 0.0 }),
        )?;
        self.set(&operation, names.convolution, Value::Descriptor(&moved))?;
        self.set(&operation, names.x, Value::Descriptor(&x))?;
        self.set(&operation, names.weight, Value::Descriptor(&weight))?;
        self.set(&operation, names.y, Value::Descriptor(&y))?;
        let operation = self.finish(operation)?;

        let graph = self.make(kind::GRAPH)?;
        self.set(&graph, attribute::GRAPH_HANDLE, Value::Handle(self.handle))?;
        self.set(
            &graph,
            attribute::GRAPH_OPERATIONS,
            Value::Descriptor(&operation),
        )?;
        let graph = self.finish(graph)?;
        Ok(vec![x, weight, y, moved, operation, graph])
    }

    /// The engines that know what to do, the best first as the library believes; of the last resort where there is no other.
    fn engines(&self, graph: &Descriptor, resort: c_int) -> Result<Vec<Descriptor>, String> {
        let heuristics = self.make(kind::HEURISTICS)?;
        self.set(
            &heuristics,
            attribute::HEURISTICS_GRAPH,
            Value::Descriptor(graph),
        )?;
        let mode = Value::Of(value::HEURISTICS_MODE, resort);
        self.set(&heuristics, attribute::HEURISTICS_MODE, mode)?;
        let heuristics = self.finish(heuristics)?;
        let made = (0..ENGINES).map(|_| self.make(kind::ENGINE_CONFIG));
        let mut engines: Vec<Descriptor> = made.collect::<Result<_, _>>()?;
        let mut raw: Vec<Raw> = engines.iter().map(|engine| engine.raw).collect();
        let results = (attribute::HEURISTICS_RESULTS, value::DESCRIPTOR);
        // SAFETY: descriptors, which are there.
        let count = unsafe { self.get(&heuristics, results, &mut raw) }?;
        engines.truncate(count);
        Ok(engines)
    }

    /// Whether an engine adds in f32 what was not rounded to less before, but for TF32 where that may be, and gives the same bits
    /// each time.
    fn is_exact(&self, engine: &Descriptor, element: Element, tf32: bool) -> Result<bool, String> {
        let of = self.make(kind::ENGINE)?;
        let which = (attribute::ENGINE_CONFIG_ENGINE, value::DESCRIPTOR);
        // SAFETY: a descriptor, which is there.
        unsafe { self.get(engine, which, &mut [of.raw]) }?;
        let mut notes = [0 as c_int; 16];
        let which = (attribute::ENGINE_NOTES, value::NOTE);
        // SAFETY: numbers of an enumeration.
        let count = unsafe { self.get(&of, which, &mut notes) }?;
        let is_bad = |note: &c_int| match *note {
            value::NOTE_REDUCED_SUMS | value::NOTE_RANDOM => true,
            value::NOTE_TENSOR_CORES | value::NOTE_ROUNDED_INPUTS => {
                element == Element::F32 && !tf32
            }
            _ => false,
        };
        Ok(!notes[..count].iter().any(is_bad))
    }

    /// Ways to compute a convolution in so many bytes of memory, the best first as the library believes; whether it is added to
    /// what is there, and whether f32 may be rounded to TF32.
    ///
    /// # Errors
    /// The library does not take such a one.
    pub(in crate::cuda) fn plans(
        &self,
        geometry: &Geometry,
        way: Way,
        (add, tf32): (bool, bool),
        workspace: usize,
    ) -> Result<Vec<Plan>, String> {
        let convolution = Arc::new(self.convolution(geometry, way, add)?);
        let graph = convolution.last().ok_or("expected a graph")?;
        let mut plans = Vec::new();
        for mode in [value::HEURISTICS_FAST, value::HEURISTICS_FALLBACK] {
            // Where there is none of a mode, another may have one.
            for engine in self.engines(graph, mode).unwrap_or_default() {
                if plans.len() == PLANS || !self.is_exact(&engine, geometry.element, tf32)? {
                    continue;
                }
                let plan = self.make(kind::PLAN)?;
                self.set(&plan, attribute::PLAN_HANDLE, Value::Handle(self.handle))?;
                self.set(&plan, attribute::PLAN_ENGINE, Value::Descriptor(&engine))?;
                // Only now an engine may find that it cannot.
                let Ok(plan) = self.finish(plan) else {
                    continue;
                };
                let mut bytes = [0i64];
                let which = (attribute::PLAN_WORKSPACE, value::INT64);
                // SAFETY: a number.
                unsafe { self.get(&plan, which, &mut bytes) }?;
                let bytes = bytes[0].max(0) as usize;
                if bytes <= workspace {
                    plans.push(Plan {
                        plan,
                        workspace: bytes,
                        _engine: engine,
                        _convolution: Arc::clone(&convolution),
                    });
                }
            }
        }
        Ok(plans)
    }

    /// Where a convolution's `x`, `weight` and `y` are, and what it works in.
    ///
    /// # Errors
    /// Values are not aligned.
    pub(in crate::cuda) fn places(
        &self,
        values: [CUdeviceptr; 3],
        workspace: CUdeviceptr,
    ) -> Result<Descriptor, String> {
        if values
            .iter()
            .any(|value| !value.is_multiple_of(ALIGNMENT as u64))
        {
            return Err(format!(
                "expected values that are aligned to {ALIGNMENT} bytes"
            ));
        }
        let pointers = values.map(|value| value as *mut c_void);
        let workspace = [workspace as *mut c_void];
        let places = self.make(kind::PLACES)?;
        self.set(&places, attribute::PLACES_NAMES, Value::Ints(&[0, 1, 2]))?;
        self.set(
            &places,
            attribute::PLACES_POINTERS,
            Value::Pointers(&pointers),
        )?;
        self.set(
            &places,
            attribute::PLACES_WORKSPACE,
            Value::Pointers(&workspace),
        )?;
        self.finish(places)
    }

    /// Starts a convolution; the device is the calling thread's.
    ///
    /// # Errors
    /// The library refuses.
    ///
    /// # Safety
    /// Until the stream has been waited for, what the plan was made for and as many bytes as it works in are at these
    /// places, and nobody else uses the result and that memory.
    pub(in crate::cuda) unsafe fn start(
        &self,
        plan: &Plan,
        places: &Descriptor,
        stream: &CudaStream,
    ) -> Result<(), String> {
        let functions = &self.functions;
        // SAFETY: the stream is there.
        self.result(unsafe { (functions.set_stream)(self.handle, stream.cu_stream().cast()) })?;
        // SAFETY: the memory is the caller's to vouch for.
        self.result(unsafe { (functions.execute)(self.handle, plan.plan.raw, places.raw) })
    }
}
