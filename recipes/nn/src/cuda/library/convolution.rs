//! Convolutions by cuDNN.

use std::sync::{Arc, MutexGuard};

use candle_core::{Error, Result, cuda_backend::cudarc::driver::CudaStream};

use super::choice::fastest;
use crate::{
    cuda::{
        Buffer, Convolution, Geometry, Gpu, Way,
        handles::{Convolutions, Descriptor, Handles, Plan},
        memory::Memory,
    },
    ops::Onto,
};

/// A convolution that can be started.
pub(in crate::cuda) struct Convolving {
    kind: Kind,
    handles: Arc<Handles>,
    plan: Arc<Plan>,
    places: Descriptor,
}

/// What the choice of a plan hangs on; the last is whether f32 is rounded to TF32.
type Kind = (Geometry, Way, Onto, bool);

impl Convolving {
    /// Describes a convolution to the library and has its plan chosen; the device is the calling thread's.
    ///
    /// # Errors
    /// There is no cuDNN, it cannot compute this, or a span is outside the memory.
    pub(in crate::cuda) fn new(
        gpu: &Gpu,
        convolution: &Convolution,
        memory: Memory<'_>,
    ) -> Result<Self> {
        let (workspace, bytes) = memory.workspace()?;
        let Convolution {
            geometry,
            way,
            x,
            weight,
            y,
            onto,
        } = *convolution;
        let values = [
            memory.address(x)?,
            memory.address(weight)?,
            memory.address(y)?,
        ];
        let kind = (geometry, way, onto, gpu.rounds_to_tf32());
        let mut library = library(gpu.handles(), &kind)?;
        let plan = choose(gpu, &mut library, &kind, bytes)?;
        let places = library.cudnn.places(values, workspace);
        Ok(Self {
            kind,
            handles: Arc::clone(gpu.handles()),
            plan,
            places: places.map_err(|error| refused(&kind, &error))?,
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
        let library = library(&self.handles, &self.kind)?;
        // SAFETY: the plan was chosen for this, the spans hold the values, as the convolution was checked when it was added,
        // and the rest is the caller's to vouch for.
        let started = unsafe { library.cudnn.start(&self.plan, &self.places, stream) };
        started.map_err(|error| refused(&self.kind, &error))
    }
}

#[cfg(test)]
impl Gpu {
    /// Whether there is a cuDNN that computes such convolutions and their gradients.
    pub(crate) fn supports(&self, geometry: &Geometry) -> bool {
        let kinds = [
            (Way::Forward, Onto::Write),
            (Way::Input, Onto::Write),
            (Way::Input, Onto::Add),
            (Way::Weight, Onto::Write),
        ];
        let supported = |(way, onto)| {
            let kind = (*geometry, way, onto, self.rounds_to_tf32());
            library(self.handles(), &kind)
                .and_then(|mut library| choose(self, &mut library, &kind, super::WORKSPACE))
                .is_ok()
        };
        self.bind().is_ok() && kinds.into_iter().all(supported)
    }
}

fn library<'a>(handles: &'a Handles, kind: &Kind) -> Result<MutexGuard<'a, Convolutions>> {
    let library = handles.convolutions();
    library.ok_or_else(|| refused(kind, "it is not there"))
}

/// The plan that computes a convolution in so many bytes of memory.
fn choose(
    gpu: &Gpu,
    library: &mut Convolutions,
    kind: &Kind,
    workspace: usize,
) -> Result<Arc<Plan>> {
    let known = library.chosen.get(kind);
    if let Some(known) = known.filter(|known| known.workspace <= workspace) {
        return Ok(Arc::clone(known));
    }
    let (geometry, way, onto, tf32) = kind;
    let add = *onto == Onto::Add;
    let told = |error: String| refused(kind, &error);
    let plans = library.cudnn.plans(geometry, *way, (add, *tf32), workspace);
    let mut plans = plans.map_err(told)?;
    let most = plans.iter().map(|plan| plan.workspace).max();
    let memory = Buffer::new(gpu, most.unwrap_or(0))?;
    let [x, weight, y] = (geometry.bytes()).map(|bytes| Buffer::filled(gpu, bytes));
    let (x, weight, y) = (x?, weight?, y?);
    let values = [x.address(), weight.address(), y.address()];
    let places = library.cudnn.places(values, memory.address());
    let places = places.map_err(told)?;
    let place = fastest(gpu, &plans, |plan, stream| {
        // SAFETY: the library gave the plan for this. The memory is as large as it asks for, nobody else has it, and it is
        // given back when nothing runs any more.
        unsafe { library.cudnn.start(plan, &places, stream) }.map_err(told)
    })?;
    let Some(place) = place else {
        return Err(refused(kind, "no engine gives the same bits each time"));
    };
    let chosen = Arc::new(plans.swap_remove(place));
    library.chosen.insert(*kind, Arc::clone(&chosen));
    Ok(chosen)
}

fn refused((geometry, way, onto, _): &Kind, error: &str) -> Error {
    let Geometry {
        element,
        images,
        from,
        to,
        window,
        groups,
    } = geometry;
    let what = match way {
        Way::Forward => "a convolution",
        Way::Input => "the images' gradient of a convolution",
        Way::Weight => "the filters' gradient of a convolution",
    };
    let added = match onto {
        Onto::Write => "",
        Onto::Add => ", added to what is there",
    };
    let element = element.name();
    Error::Msg(format!(
        "cuDNN cannot compute {what} of {images} images {from:?} to {to:?} in {element}, {window:?}, groups: \
         {groups}{added}: {error}"
    ))
    .bt()
}
