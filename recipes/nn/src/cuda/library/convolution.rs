//! Convolutions by cuDNN.

use std::sync::Arc;

use candle_core::{Error, Result, cuda_backend::cudarc::driver::CudaStream};

use super::{WORKSPACE, choice::fastest};
use crate::{
    cuda::{
        Buffer, Convolution, Geometry, Gpu, Way,
        handles::{Addresses, Algorithm, Convolutions, Description, Handles},
        memory::Memory,
    },
    ops::Onto,
};

/// A convolution that can be started.
pub(in crate::cuda) struct Convolving {
    kind: Kind,
    handles: Arc<Handles>,
    description: Description,
    algorithm: Algorithm,
    addresses: Addresses,
}

/// What the choice of an algorithm hangs on.
type Kind = (Geometry, Way, Onto);

impl Convolving {
    /// Describes a convolution to the library and has its algorithm chosen; the device is the calling thread's.
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
        let kind = (geometry, way, onto);
        let (description, algorithm) = choose(gpu, kind, bytes)?;
        Ok(Self {
            kind,
            handles: Arc::clone(gpu.handles()),
            description,
            algorithm,
            addresses: Addresses { values, workspace },
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
        let Some(library) = self.handles.convolutions() else {
            return Err(refused(&self.kind, "it is not there"));
        };
        // SAFETY: the algorithm was chosen for this, the spans hold the values, as the convolution was checked when it was
        // added, and the rest is the caller's to vouch for.
        unsafe {
            start(
                &library,
                &self.kind,
                (&self.description, self.algorithm),
                self.addresses,
                stream,
            )
        }
    }
}

impl Gpu {
    /// Whether there is a cuDNN that computes such convolutions and their gradients.
    pub(crate) fn supports(&self, geometry: &Geometry) -> bool {
        let kinds = [
            (Way::Forward, Onto::Write),
            (Way::Input, Onto::Write),
            (Way::Input, Onto::Add),
            (Way::Weight, Onto::Write),
        ];
        let supported = |(way, onto)| choose(self, (*geometry, way, onto), WORKSPACE).is_ok();
        self.bind().is_ok() && kinds.into_iter().all(supported)
    }
}

/// # Safety
/// As `Cudnn::start`.
unsafe fn start(
    library: &Convolutions,
    kind: &Kind,
    (description, algorithm): (&Description, Algorithm),
    addresses: Addresses,
    stream: &CudaStream,
) -> Result<()> {
    let (_, way, onto) = *kind;
    let add = onto == Onto::Add;
    // SAFETY: as the caller's.
    let started = unsafe {
        let what = (way, description);
        (library.cudnn).start(what, algorithm, addresses, add, stream)
    };
    started.map_err(|error| refused(kind, &error))
}

/// A convolution in the library's words, and the algorithm that computes it in so many bytes of memory.
fn choose(gpu: &Gpu, kind: Kind, workspace: usize) -> Result<(Description, Algorithm)> {
    let Some(mut library) = gpu.handles().convolutions() else {
        return Err(refused(&kind, "it is not there"));
    };
    let (geometry, way, _) = kind;
    let told = |error: String| refused(&kind, &error);
    let description = library.cudnn.describe(&geometry).map_err(told)?;
    let known = library.chosen.get(&kind).copied();
    if let Some(known) = known.filter(|known| known.workspace <= workspace) {
        return Ok((description, known));
    }
    let algorithms = library.cudnn.algorithms(way, &description, workspace);
    let algorithms = algorithms.map_err(told)?;
    let place = measure(gpu, &library, &kind, &description, &algorithms)?;
    let Some(chosen) = place.map(|place| algorithms[place]) else {
        return Err(refused(&kind, "no algorithm gives the same bits each time"));
    };
    library.chosen.insert(kind, chosen);
    Ok((description, chosen))
}

/// Which of some algorithms is the fastest, if any works.
fn measure(
    gpu: &Gpu,
    library: &Convolutions,
    kind: &Kind,
    description: &Description,
    algorithms: &[Algorithm],
) -> Result<Option<usize>> {
    let most = algorithms.iter().map(|algorithm| algorithm.workspace).max();
    let workspace = Buffer::new(gpu, most.unwrap_or(0))?;
    let [x, weight, y] = (kind.0.bytes()).map(|bytes| Buffer::filled(gpu, bytes));
    let (x, weight, y) = (x?, weight?, y?);
    let addresses = Addresses {
        values: [x.address(), weight.address(), y.address()],
        workspace: workspace.address(),
    };
    fastest(gpu, algorithms, |algorithm, stream| {
        // SAFETY: the library gave the algorithm for this. The memory is as large as it asks for, nobody else has it, and it
        // is given back when nothing runs any more.
        unsafe { start(library, kind, (description, *algorithm), addresses, stream) }
    })
}

fn refused((geometry, way, onto): &Kind, error: &str) -> Error {
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
