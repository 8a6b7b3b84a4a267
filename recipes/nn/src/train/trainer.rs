//! A network that is trained, batch by batch.

use std::{
    borrow::Cow,
    ops::Range,
    slice::from_ref,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda::Ranks;
use super::{
    Form, Plan, Settings, Tensor,
    cpu::{Cpu, Numbers},
    differentiate,
    update::Update,
};
#[cfg(feature = "cuda")]
use crate::cuda::Gpu;
use crate::{
    aligned::Aligned,
    backend::{Backend, Kind},
    graph::Graph,
    host, pool,
    simd::Precision,
};

/// Values of gradients that devices average at once, at least: 25 MiB, as PyTorch's buckets.
const BUCKET: usize = 25 << 18;

/// A network with its numbers, and all that a step needs.
#[derive(Debug)]
pub struct Trainer {
    /// Of a device's part of a batch.
    plan: Arc<Plan>,
    device: Device,
    /// The CPU's; or what was last fetched from another device.
    numbers: Numbers,
    /// Logits of an example.
    classes: usize,
    /// What ids have to be below, if the input is ids.
    vocabulary: Option<usize>,
}

/// What computes the steps.
#[derive(Debug)]
enum Device {
    Cpu(Box<(Cpu, Update)>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Ranks>),
}

/// What a step did, and how long its parts took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The loss before the step: the mean over the batch, with auxiliary ones by their weights. Whether it is finite is for
    /// the caller to look at.
    pub loss: f64,
    /// Of the batch to the device: nothing on the CPU.
    pub copy: Duration,
    /// To the loss.
    pub forward: Duration,
    /// From there to all gradients.
    pub backward: Duration,
    /// Of the parameters.
    pub update: Duration,
}

#[cfg(any(test, feature = "cuda"))]
impl Outcome {
    /// Of several devices, each with its part of the batch: the mean of their losses, and the times of the slowest.
    pub(super) fn of(ranks: &[Self]) -> Self {
        let most = |time: fn(&Self) -> Duration| ranks.iter().map(time).max().unwrap_or_default();
        Self {
            loss: ranks.iter().map(|rank| rank.loss).sum::<f64>() / ranks.len() as f64,
            copy: most(|rank| rank.copy),
            forward: most(|rank| rank.forward),
            backward: most(|rank| rank.backward),
            update: most(|rank| rank.update),
        }
    }
}

/// A tensor of a network.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a> {
    /// What its state dict calls it.
    pub name: &'a str,
    /// Its shape there.
    pub shape: &'a [usize],
    /// Whether it is a matrix whose rows and columns are exchanged in what follows.
    pub turned: bool,
    /// Its values.
    pub values: &'a [f32],
    /// The last step's gradient.
    pub gradient: &'a [f32],
}

impl Parameter<'_> {
    /// Its values or its gradient in the order of its state dict.
    pub fn stored<'a>(&self, values: &'a [f32]) -> Cow<'a, [f32]> {
        match *self.shape {
            [inputs, _] if self.turned => {
                let column = |input| values.iter().skip(input).step_by(inputs);
                (0..inputs).flat_map(column).copied().collect()
            }
            _ => Cow::Borrowed(values),
        }
    }
}

impl Trainer {
    /// Whether networks are trained on a backend: the CPU in f32, CUDA devices in f32 or f16.
    ///
    /// # Errors
    /// They are not; the message is for whoever chose that.
    pub fn runs_on(backend: &Backend) -> std::result::Result<(), String> {
        match &backend.0 {
            Kind::Cpu(Precision::F32) => Ok(()),
            Kind::Cpu(_) => Err("networks are trained on the CPU in f32: use --dtype f32".into()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => Ok(()),
        }
    }

    /// Reads a network's tensors by the names of its description, for batches of one size.
    ///
    /// # Errors
    /// The network cannot be trained on such batches, tensors are missing or of another shape, or nothing is trained on the
    /// backend.
    pub fn new(
        graph: &Graph,
        batch: usize,
        weights: &VarBuilder<'_>,
        settings: &Settings,
        backend: &Backend,
    ) -> Result<Self> {
        Self::on(graph, batch, weights, settings, from_ref(backend))
    }

    /// The same for several CUDA devices that train together. A batch is cut into parts of one size, one a device in their
    /// order; each normalises by its own part's statistics and drops others, and what all make of the parameters is the same.
    /// Running statistics are the first's.
    ///
    /// # Errors
    /// As [`Self::new`]; the batch cannot be cut so, not all of several devices are different CUDA devices, or there is no NCCL.
    pub fn on(
        graph: &Graph,
        batch: usize,
        weights: &VarBuilder<'_>,
        settings: &Settings,
        backends: &[Backend],
    ) -> Result<Self> {
        let bucket = (backends.len() > 1).then_some(BUCKET);
        Self::averaging(graph, batch, weights, settings, (backends, bucket))
    }

    /// The same, where gradients are averaged, so many at once at least, if that is told.
    pub(super) fn averaging(
        graph: &Graph,
        batch: usize,
        weights: &VarBuilder<'_>,
        settings: &Settings,
        (backends, bucket): (&[Backend], Option<usize>),
    ) -> Result<Self> {
        for backend in backends {
            Self::runs_on(backend).map_err(candle_core::Error::msg)?;
        }
        let devices = backends.len().max(1);
        if !batch.is_multiple_of(devices) {
            bail!("expected a batch that {devices} devices share evenly, got {batch} examples")
        }
        let form = Form {
            batch: batch / devices,
            dropout: settings.dropout.is_some(),
        };
        let plan = Arc::new(differentiate(graph, form)?);
        let numbers = Numbers {
            parameters: read(&plan.parameters, plan.parameters_len(), weights)?,
            gradients: Aligned::zeros(plan.parameters_len()),
            buffers: read(&plan.buffers, plan.buffers_len(), weights)?,
        };
        let device = match (backends, bucket) {
            ([Backend(Kind::Cpu(_))], None) => Device::Cpu(Box::new((
                Cpu::new(Arc::clone(&plan), settings.dropout.unwrap_or(0)),
                Update::new(settings.optimizer, plan.parameters_len()),
            ))),
            #[cfg(feature = "cuda")]
            ([_, ..], bucket) if !backends.iter().any(Backend::is_cpu) => {
                let gpus = gpus(backends);
                Device::Cuda(Box::new(Ranks::new(
                    gpus, bucket, &plan, settings, &numbers,
                )?))
            }
            _ => bail!("expected one device, or several CUDA devices, to train on"),
        };
        Ok(Self {
            classes: graph.shape(graph.output()).channels,
            vocabulary: plan.vocabulary(),
            plan,
            device,
            numbers,
        })
    }

    /// Its plan: of a device's part of a batch, where there are several.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Trains on a batch: `input` `[batch, height, width, channels]`, or token ids `[batch, tokens]`, and a label for each example.
    ///
    /// # Errors
    /// Lengths are others, a label is not below the classes, or an id is no whole number below the vocabulary.
    pub fn step(&mut self, input: &[f32], labels: &[u32]) -> Result<Outcome> {
        self.check(input, labels)?;
        let numbers = &mut self.numbers;
        let (device, update) = match &mut self.device {
            Device::Cpu(both) => &mut **both,
            #[cfg(feature = "cuda")]
            Device::Cuda(ranks) => return ranks.step(input, labels),
        };
        pool::run(|| {
            let start = Instant::now();
            let loss = device.forward(numbers, (input, labels), true);
            let forward = start.elapsed();
            device.backward(numbers);
            let backward = start.elapsed() - forward;
            update.run(
                numbers.parameters.as_mut_slice(),
                numbers.gradients.as_slice(),
            );
            Ok(Outcome {
                loss,
                copy: Duration::ZERO,
                forward,
                backward,
                update: start.elapsed() - forward - backward,
            })
        })
    }

    /// The loss of a batch as the parameters are now, by the batch's statistics but without dropout. Nothing is trained by it.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn loss(&mut self, input: &[f32], labels: &[u32]) -> Result<f64> {
        self.check(input, labels)?;
        let numbers = &mut self.numbers;
        let device = match &mut self.device {
            Device::Cpu(both) => &mut both.0,
            #[cfg(feature = "cuda")]
            Device::Cuda(ranks) => return ranks.loss(input, labels),
        };
        // A pass moves running statistics.
        let buffers = numbers.buffers.clone();
        let loss = pool::run(|| device.forward(numbers, (input, labels), false));
        numbers.buffers = buffers;
        Ok(loss)
    }

    /// Whether a batch can be trained on.
    fn check(&self, input: &[f32], labels: &[u32]) -> Result<()> {
        let plan = &self.plan;
        let devices = match &self.device {
            Device::Cpu(_) => 1,
            #[cfg(feature = "cuda")]
            Device::Cuda(ranks) => ranks.count(),
        };
        let expected = [plan.slots[plan.input].len, plan.batch].map(|part| devices * part);
        if [input.len(), labels.len()] != expected {
            bail!(
                "expected {} values and {} labels, got {} and {}",
                expected[0],
                expected[1],
                input.len(),
                labels.len()
            )
        }
        let classes = plan.losses.iter().map(|loss| loss.logits.shape.channels);
        let classes = classes.min().unwrap_or(self.classes);
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            bail!("expected labels below {classes}, got {label}")
        }
        let id = |x: &&f32| x.fract() == 0.0 && **x >= 0.0;
        if let Some(vocabulary) = self.vocabulary
            && let Some(id) = input
                .iter()
                .find(|x| !(id(x) && (**x as usize) < vocabulary))
        {
            bail!("expected token ids below {vocabulary}, got {id}")
        }
        Ok(())
    }

    /// What is trained, in the order of the network's layers, as it is now.
    ///
    /// # Errors
    /// It cannot be fetched from the device.
    pub fn parameters(&mut self) -> Result<impl Iterator<Item = Parameter<'_>>> {
        self.fetch()?;
        let Numbers {
            parameters,
            gradients,
            ..
        } = &self.numbers;
        let of = |values, range: &Range<usize>| part(values, range);
        Ok((self.plan.parameters.iter()).map(move |tensor| Parameter {
            name: &tensor.name,
            shape: &tensor.shape,
            turned: tensor.turned,
            values: of(parameters, &tensor.range),
            gradient: of(gradients, &tensor.range),
        }))
    }

    /// Running statistics, by name.
    ///
    /// # Errors
    /// As [`Self::parameters`].
    pub fn buffers(&mut self) -> Result<impl Iterator<Item = (&str, &[f32])>> {
        self.fetch()?;
        let tensors = self.plan.buffers.iter();
        Ok(tensors.map(|tensor| (&tensor.name[..], part(&self.numbers.buffers, &tensor.range))))
    }

    /// Brings the first device's numbers here.
    fn fetch(&mut self) -> Result<()> {
        match &mut self.device {
            Device::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ranks) => ranks.fetch(0, &mut self.numbers),
        }
    }

    /// All parameters and gradients of one of several devices.
    #[cfg(all(test, feature = "cuda"))]
    pub(super) fn numbers_of(&mut self, rank: usize) -> Result<[Vec<f32>; 2]> {
        if let Device::Cuda(ranks) = &mut self.device {
            ranks.fetch(rank, &mut self.numbers)?;
        }
        let Numbers {
            parameters,
            gradients,
            ..
        } = &self.numbers;
        Ok([parameters, gradients].map(|values| values.as_slice().to_vec()))
    }
}

/// The CUDA devices among them.
#[cfg(feature = "cuda")]
fn gpus(backends: &[Backend]) -> Vec<Gpu> {
    let gpu = |backend: &Backend| match &backend.0 {
        Kind::Cuda(gpu) => Some(gpu.clone()),
        Kind::Cpu(_) => None,
    };
    backends.iter().filter_map(gpu).collect()
}

fn part<'a>(values: &'a Aligned, range: &Range<usize>) -> &'a [f32] {
    &values.as_slice()[range.clone()]
}

/// Tensors in one array.
fn read(tensors: &[Tensor], len: usize, weights: &VarBuilder<'_>) -> Result<Aligned> {
    let mut values = Aligned::zeros(len);
    for tensor in tensors {
        let mut read = weights.get(&tensor.shape[..], &tensor.name)?;
        if tensor.turned {
            read = read.t()?;
        }
        let to = &mut values.as_mut_slice()[tensor.range.clone()];
        host::with(&read.contiguous()?, |from| {
            to.copy_from_slice(from);
            Ok(())
        })?;
    }
    Ok(values)
}
