//! A network that is trained, batch by batch.

use std::{
    borrow::Cow,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{Result, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda::Cuda;
use super::{
    Form, Plan, Settings, Tensor,
    cpu::{Cpu, Numbers},
    differentiate,
    update::Update,
};
use crate::{
    aligned::Aligned,
    backend::{Backend, Kind},
    graph::Graph,
    host, pool,
    simd::Precision,
};

/// A network with its numbers, and all that a step needs.
#[derive(Debug)]
pub struct Trainer {
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
    Cuda(Box<Cuda>),
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
        Self::runs_on(backend).map_err(candle_core::Error::msg)?;
        let form = Form {
            batch,
            dropout: settings.dropout.is_some(),
        };
        let plan = Arc::new(differentiate(graph, form)?);
        let numbers = Numbers {
            parameters: read(&plan.parameters, plan.parameters_len(), weights)?,
            gradients: Aligned::zeros(plan.parameters_len()),
            buffers: read(&plan.buffers, plan.buffers_len(), weights)?,
        };
        let device = match &backend.0 {
            Kind::Cpu(_) => Device::Cpu(Box::new((
                Cpu::new(Arc::clone(&plan), settings.dropout.unwrap_or(0)),
                Update::new(settings.optimizer, plan.parameters_len()),
            ))),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => Device::Cuda(Box::new(Cuda::new(gpu, &plan, settings, &numbers)?)),
        };
        Ok(Self {
            classes: graph.shape(graph.output()).channels,
            vocabulary: plan.vocabulary(),
            plan,
            device,
            numbers,
        })
    }

    /// Its plan.
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
            Device::Cuda(cuda) => return cuda.step(input, labels),
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
            Device::Cuda(cuda) => return cuda.loss(input, labels),
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
        let expected = [plan.slots[plan.input].len, plan.batch];
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

    /// Brings a device's numbers here.
    fn fetch(&mut self) -> Result<()> {
        match &mut self.device {
            Device::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => cuda.fetch(&mut self.numbers),
        }
    }
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
