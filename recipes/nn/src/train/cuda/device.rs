//! A network that is trained on a device.

use std::{fmt, sync::Arc, time::Duration};

use candle_core::Result;
use rayon::prelude::*;

use super::{Element, Places, Programs, is_pure, order::Order, places::takes_ids};
use crate::{
    aligned::Aligned,
    cuda::{Fill, Gpu, Recorded, Recording, Session, Span},
    ops::optimizer::cuda::State,
    train::{Outcome, Plan, Settings, cpu::Numbers},
};

/// Values that a task makes ready for the device at least.
const TOGETHER: usize = 1 << 15;

/// A network on a device, with all that its steps need.
pub(super) struct Cuda {
    plan: Arc<Plan>,
    places: Places,
    orders: Vec<Order>,
    session: Session,
    forward: Recorded,
    losses: Recorded,
    backward: Recorded,
    update: Recorded,
    /// After the last step.
    state: State,
    /// What the last step's gradients were multiplied by.
    scale: f32,
    gpu: Gpu,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl Cuda {
    /// Lays a network's numbers out on a device.
    ///
    /// # Errors
    /// The device has too little memory, or the batch is too large for it.
    pub(super) fn new(
        gpu: &Gpu,
        plan: &Arc<Plan>,
        settings: &Settings,
        numbers: &Numbers,
    ) -> Result<Self> {
        let gpu = gpu.clone().with_cudnn();
        let Programs {
            start,
            forward,
            losses,
            backward,
            update,
            places,
            layout,
        } = Programs::new(plan, settings, gpu.target())?;
        let mut session = Session::new(&gpu, layout)?;
        let orders = Order::all(plan);
        let mut parameters = numbers.parameters.clone();
        for order in &orders {
            order.lay(plan, parameters.as_mut_slice());
        }
        session.write(places.parameters, &bytes_of(parameters.as_slice()))?;
        session.write(places.buffers, &bytes_of(numbers.buffers.as_slice()))?;
        session.clear(places.gradients)?;
        for kept in &places.kept {
            session.clear(*kept)?;
        }
        let state = State::first(places.element, is_pure(settings, places.element));
        session.write(places.state, &state.to_bytes())?;
        let start = session.ready(&start)?;
        // It also has the host's memory that batches pass through. Later that might wait for a device which waits for this one.
        let clear = |bytes: &mut [u8]| bytes.fill(0);
        let inputs = [places.input, places.labels].map(|span| (span, &clear as Fill<'_>));
        session.run(&[start], &inputs, places.results)?;
        Ok(Self {
            forward: session.ready(&forward)?,
            losses: session.ready(&losses)?,
            backward: session.ready(&backward)?,
            update: session.ready(&update)?,
            session,
            orders,
            state,
            scale: state.scale,
            places,
            plan: Arc::clone(plan),
            gpu,
        })
    }

    /// # Errors
    /// A launch failed.
    pub(super) fn step(&mut self, input: &[f32], labels: &[u32]) -> Result<Outcome> {
        let parts = [self.forward, self.backward, self.update];
        self.scale = self.state.scale;
        let loss = self.run(&parts, input, labels)?;
        let times = self.session.times()?;
        let time = |part: usize| times.get(part).copied().unwrap_or_default();
        Ok(Outcome {
            loss,
            copy: Duration::ZERO,
            forward: time(0),
            backward: time(1),
            update: time(2),
        })
    }

    /// Records the parts of a step, after the first.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn record(&mut self, recording: &Recording) -> Result<()> {
        let parts = [self.forward, self.backward, self.update];
        self.session.record(&parts, recording)
    }

    /// Has other devices not wait for this one, which has failed.
    pub(super) fn give_up(&self) {
        self.gpu.give_up();
    }

    /// # Errors
    /// A launch failed.
    pub(super) fn loss(&mut self, input: &[f32], labels: &[u32]) -> Result<f64> {
        self.run(&[self.losses], input, labels)
    }

    /// Runs parts of a step on a batch; gives the loss that they find.
    fn run(&mut self, parts: &[Recorded], input: &[f32], labels: &[u32]) -> Result<f64> {
        let Places {
            element,
            input: to,
            labels: to_labels,
            losses,
            state,
            results,
            ..
        } = self.places;
        let ids = takes_ids(&self.plan);
        let fill = |bytes: &mut [u8]| match ids {
            true => write(bytes, input, |id| (*id as u32).to_le_bytes()),
            false => element.write_all(input, bytes),
        };
        let fill_labels = |bytes: &mut [u8]| write(bytes, labels, |label| label.to_le_bytes());
        let inputs: [(Span, Fill<'_>); 2] = [(to, &fill), (to_labels, &fill_labels)];
        let read = self.session.run(parts, &inputs, results)?;
        let part = |span: Span| {
            let start = results.distance(span);
            &read[start..start + span.bytes]
        };
        if let Some(state) = part(state).first_chunk() {
            self.state = State::from_bytes(state);
        }
        let losses = Element::F32.read(part(losses));
        Ok(losses.into_iter().map(f64::from).sum())
    }

    /// Reads what is trained, and gradients as they are without what the loss was multiplied by.
    ///
    /// # Errors
    /// A copy failed.
    pub(super) fn fetch(&mut self, numbers: &mut Numbers) -> Result<()> {
        let Places {
            parameters,
            gradients,
            buffers,
            ..
        } = self.places;
        for (span, to, factor) in [
            (parameters, &mut numbers.parameters, 1.0),
            (buffers, &mut numbers.buffers, 1.0),
            (gradients, &mut numbers.gradients, 1.0 / self.scale),
        ] {
            let values = Element::F32.read(&self.session.read(span)?);
            *to = Aligned::zeros(values.len());
            let pairs = to.as_mut_slice().iter_mut().zip(values);
            pairs.for_each(|(to, value)| *to = value * factor);
        }
        for order in &self.orders {
            order.restore(&self.plan, numbers.parameters.as_mut_slice());
            order.restore(&self.plan, numbers.gradients.as_mut_slice());
        }
        Ok(())
    }
}

/// Words as the device reads them.
fn write<T: Sync>(to: &mut [u8], from: &[T], word: impl Fn(&T) -> [u8; 4]) {
    for (to, from) in to.as_chunks_mut().0.iter_mut().zip(from) {
        *to = word(from);
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(values)];
    Element::F32.write_all(values, &mut bytes);
    bytes
}

impl Element {
    /// As [`Self::write`], on rayon's pool.
    fn write_all(self, values: &[f32], to: &mut [u8]) {
        let tasks = to.par_chunks_mut(TOGETHER * self.size());
        tasks
            .zip(values.par_chunks(TOGETHER))
            .for_each(|(to, values)| self.write(values, to));
    }
}
