//! A network that runs: its plan, and weights that are laid out once, as the plan's steps read them.
//!
//! A plan is for images of one size, and made when the first ones of that size come; weights do not depend on it.

mod cpu;
#[cfg(any(test, feature = "cuda"))]
#[cfg_attr(
    not(feature = "cuda"),
    allow(dead_code, reason = "tests use what they test")
)]
mod cuda;
#[cfg(test)]
pub(crate) mod tests;
mod weights;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use self::weights::{Laid, Reader};
use crate::{
    backend::{Backend, Kind},
    graph::{Graph, Mistake},
    host,
    image::{Colours, Table, expect_size},
    picture::{Picture, Scored, Unit},
    plan::{Form, Plan, Step},
    pool,
    simd::Precision,
    workspace::Workspaces,
};

/// Values of a pixel of the input.
const COLOURS: usize = 3;
/// Sizes of which the plans are kept.
const PLANS: usize = 8;

/// Describes a network for images of a size, `[down, across]`.
pub type Describe = Box<dyn Fn([usize; 2]) -> std::result::Result<Graph, Mistake> + Send + Sync>;

/// An image network that is described by a graph, laid out for a device.
///
/// A pass on the CPU runs in the CPU pool; one on another device is waited for by the calling thread. Memory is kept for the
/// next.
pub struct Executor {
    describe: Describe,
    form: Form,
    /// The plans of the sizes that came last, the latest at the end.
    plans: Mutex<Vec<([usize; 2], Arc<Plan>)>>,
    classes: usize,
    device: OnDevice,
}

enum OnDevice {
    Cpu(Box<OnCpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Network>),
}

struct OnCpu {
    /// Of each step, by its name: what it reads from weights.
    laid: HashMap<String, Laid>,
    /// What bytes become.
    table: Table,
    workspaces: Workspaces<cpu::Workspace>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match &self.device {
            OnDevice::Cpu(_) => "the CPU",
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(_) => "CUDA",
        };
        write!(f, "Executor[{} logits on {device}]", self.classes)
    }
}

impl Executor {
    /// Whether it runs on a backend: the CPU in f32, CUDA in f16 or f32.
    ///
    /// # Errors
    /// It does not; the message is for whoever chose that.
    pub fn runs_on(backend: &Backend) -> std::result::Result<(), String> {
        match &backend.0 {
            Kind::Cpu(Precision::F32) => Ok(()),
            Kind::Cpu(_) => Err("this network computes in f32 on the CPU: use --dtype f32".into()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => Ok(()),
        }
    }

    /// Reads the weights of a network by the names of its description. `size` is that of the images it is mostly for;
    /// `colours` say what bytes of pixels mean to it.
    ///
    /// # Errors
    /// The description does not fit images of that size, weights are missing or of another shape, or it does not run on the
    /// backend.
    pub fn new(
        describe: Describe,
        size: [usize; 2],
        weights: &VarBuilder<'_>,
        backend: &Backend,
        colours: &Colours,
    ) -> Result<Self> {
        Self::runs_on(backend).map_err(candle_core::Error::msg)?;
        let graph = describe(size)?;
        if graph.nodes()[0].shape.channels != COLOURS {
            bail!(
                "expected a network of images of three colours, got {:?}",
                graph.nodes()[0].shape
            )
        }
        let form = match &backend.0 {
            Kind::Cpu(_) => Form::CPU,
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => cuda::Network::FORM,
        };
        let plan = Plan::new(&graph, form)?;
        let reader = Reader(weights);
        let device = match &backend.0 {
            Kind::Cpu(_) => OnDevice::Cpu(Box::new(OnCpu::new(&plan, &reader, colours)?)),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let network = cuda::Network::new(gpu, (&plan, &reader), colours)?;
                OnDevice::Cuda(Box::new(network))
            }
        };
        Ok(Self {
            describe,
            form,
            classes: plan.output.channels * plan.buffers[plan.output.buffer].pixels(),
            plans: Mutex::new(vec![(size, Arc::new(plan))]),
            device,
        })
    }

    /// Logits of an image.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Pixels `[n, h, w, 3]` on the host, which mean what they are -> logits `[n, classes]` there, in f32.
    ///
    /// # Errors
    /// The shape is another, or the network cannot take images of that size.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (n, height, width, colours) = pixels.dims4()?;
        if colours != COLOURS {
            bail!("expected pixels [n, h, w, 3], got {:?}", pixels.dims())
        }
        let len = height * width * COLOURS;
        let logits = host::with(&pixels.contiguous()?, |pixels| {
            if n == 0 {
                // Whatever their size would be.
                return Ok(Vec::new());
            }
            let plan = self.plan([height, width])?;
            match &self.device {
                OnDevice::Cpu(cpu) => cpu.run(&plan, (n, self.classes), &|i, to: &mut [f32]| {
                    to.copy_from_slice(&pixels[i * len..][..len]);
                }),
                #[cfg(feature = "cuda")]
                OnDevice::Cuda(network) => network.forward(&plan, n, pixels),
            }
        })?;
        Tensor::from_vec(logits, (n, self.classes), &Device::Cpu)
    }

    /// Images as they were decoded, bytes `[height, width, 3]` each, which mean what the colours say -> logits `[images *
    /// classes]`.
    ///
    /// # Errors
    /// As [`Self::forward`]; an image is of another size.
    pub fn forward_bytes(
        &self,
        images: &[&[u8]],
        (height, width): (usize, usize),
    ) -> Result<Vec<f32>> {
        let scored = self.forward_pictures_of(images, &[], [height, width])?;
        Ok(scored.logits)
    }

    /// What the device decodes pictures with; none where it does not.
    pub fn decoder(&self) -> Option<Unit> {
        match &self.device {
            OnDevice::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.decoder(),
        }
    }

    /// Images as they were decoded, bytes `[side, side, 3]` each, and after them pictures, which become such. A device that decodes
    /// none refuses all pictures.
    ///
    /// # Errors
    /// As [`Self::forward_bytes`].
    ///
    /// # Panics
    /// A picture is to become a square of another size.
    pub fn forward_pictures(
        &self,
        images: &[&[u8]],
        pictures: &[Picture<'_>],
        side: usize,
    ) -> Result<Scored> {
        self.forward_pictures_of(images, pictures, [side; 2])
    }

    fn forward_pictures_of(
        &self,
        images: &[&[u8]],
        pictures: &[Picture<'_>],
        [height, width]: [usize; 2],
    ) -> Result<Scored> {
        expect_size(images, [height, width])?;
        if images.is_empty() && pictures.is_empty() {
            return Ok(Scored::default());
        }
        let plan = self.plan([height, width])?;
        match &self.device {
            OnDevice::Cpu(cpu) => {
                let fill = |i: usize, to: &mut [f32]| cpu.table.apply(images[i], to);
                let logits = cpu.run(&plan, (images.len(), self.classes), &fill)?;
                Ok(Scored::refusing(logits, pictures.len(), self.classes))
            }
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.forward_pictures(&plan, images, pictures),
        }
    }

    /// The plan for images of a size.
    fn plan(&self, size: [usize; 2]) -> Result<Arc<Plan>> {
        // A list of plans is whole whatever happened to those that held its lock.
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = plans().iter().find(|(known, _)| *known == size) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(&(self.describe)(size)?, self.form)?);
        match &self.device {
            OnDevice::Cpu(cpu) => cpu.check(&plan)?,
            #[cfg(feature = "cuda")]
            OnDevice::Cuda(network) => network.check(&plan)?,
        }
        let mut plans = plans();
        if plans.len() == PLANS {
            plans.remove(0);
        }
        plans.push((size, plan.clone()));
        Ok(plan)
    }
}

impl OnCpu {
    fn new(plan: &Plan, reader: &Reader<'_>, colours: &Colours) -> Result<Self> {
        let mut laid = HashMap::new();
        for step in plan.steps.iter().filter(|step| Laid::is_needed(step)) {
            laid.insert(step.name.clone(), weights::lay(step, plan, reader)?);
        }
        Ok(Self {
            laid,
            table: colours.table(),
            workspaces: Workspaces::default(),
        })
    }

    /// Whether a plan for images of another size has the same weights.
    fn check(&self, plan: &Plan) -> Result<()> {
        let fits = |step: &&Step| match self.laid.get(&step.name) {
            Some(laid) => laid.fits(step, plan),
            None => !Laid::is_needed(step),
        };
        match plan.steps.iter().find(|step| !fits(step)) {
            Some(step) => Err(other_weights(step, plan)),
            None => Ok(()),
        }
    }

    /// `fill(i, pixels)` writes those of image `i`, `[height, width, 3]`.
    fn run(
        &self,
        plan: &Plan,
        (images, classes): (usize, usize),
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<Vec<f32>> {
        pool::run(|| {
            let mut logits = vec![0.0; images * classes];
            cpu::run(self, plan, fill, &mut logits)?;
            Ok(logits)
        })
    }
}

/// A plan for images of another size wants a step to have other weights.
fn other_weights(step: &Step, plan: &Plan) -> candle_core::Error {
    let size = plan.buffers[0].size;
    candle_core::Error::Msg(format!(
        "{} has other weights for images of {size:?} pixels",
        step.name
    ))
}
