//! A network that runs: its plan, and weights that are laid out once, as the plan's steps read them.
//!
//! A plan is for images of one size, and made when the first ones of that size come; weights do not depend on it.

mod cpu;
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

use self::weights::Laid;
use crate::{
    backend::Backend,
    graph::{Graph, Mistake},
    host,
    image::{Colours, Table},
    plan::Plan,
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

/// An image network that is described by a graph, laid out for the CPU.
///
/// A pass runs in the CPU pool, in memory that is kept for the next.
pub struct Executor {
    describe: Describe,
    /// Of each step, by its name: what it reads from weights.
    laid: HashMap<String, Laid>,
    /// The plans of the sizes that came last, the latest at the end.
    plans: Mutex<Vec<([usize; 2], Arc<Plan>)>>,
    table: Table,
    classes: usize,
    workspaces: Workspaces<cpu::Workspace>,
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executor[{} steps' weights]", self.laid.len())
    }
}

impl Executor {
    /// Whether it runs on a backend: the CPU, in f32.
    ///
    /// # Errors
    /// It does not; the message is for whoever chose that.
    pub fn runs_on(backend: &Backend) -> std::result::Result<(), String> {
        match backend.cpu()? {
            Precision::F32 => Ok(()),
            _ => Err("this network computes in f32 on the CPU: use --dtype f32".into()),
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
        let plan = Plan::new(&graph);
        let mut laid = HashMap::new();
        for step in plan.steps.iter().filter(|step| Laid::is_needed(step)) {
            laid.insert(step.name.clone(), weights::lay(step, &plan, weights)?);
        }
        Ok(Self {
            describe,
            laid,
            classes: plan.output.channels * plan.buffers[plan.output.buffer].pixels(),
            plans: Mutex::new(vec![(size, Arc::new(plan))]),
            table: colours.table(),
            workspaces: Workspaces::default(),
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
            let fill = |i: usize, to: &mut [f32]| to.copy_from_slice(&pixels[i * len..][..len]);
            self.run(n, [height, width], &fill)
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
        let len = height * width * COLOURS;
        if let Some(other) = images.iter().find(|image| image.len() != len) {
            bail!(
                "expected images of {height} by {width} pixels, {len} bytes, got {}",
                other.len()
            )
        }
        let fill = |i: usize, to: &mut [f32]| self.table.apply(images[i], to);
        self.run(images.len(), [height, width], &fill)
    }

    /// `fill(i, pixels)` writes those of image `i`, `[height, width, 3]`.
    fn run(
        &self,
        images: usize,
        size: [usize; 2],
        fill: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) -> Result<Vec<f32>> {
        if images == 0 {
            // Whatever their size would be.
            return Ok(Vec::new());
        }
        let plan = self.plan(size)?;
        pool::run(|| {
            let mut logits = vec![0.0; images * self.classes];
            cpu::run(self, &plan, fill, &mut logits)?;
            Ok(logits)
        })
    }

    /// The plan for images of a size.
    fn plan(&self, size: [usize; 2]) -> Result<Arc<Plan>> {
        // A list of plans is whole whatever happened to those that held its lock.
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = plans().iter().find(|(known, _)| *known == size) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(&(self.describe)(size)?));
        for step in plan.steps.iter().filter(|step| Laid::is_needed(step)) {
            if !self
                .laid
                .get(&step.name)
                .is_some_and(|laid| laid.fits(step, &plan))
            {
                bail!(
                    "{} has other weights for images of {size:?} pixels",
                    step.name
                )
            }
        }
        let mut plans = plans();
        if plans.len() == PLANS {
            plans.remove(0);
        }
        plans.push((size, plan.clone()));
        Ok(plan)
    }
}
