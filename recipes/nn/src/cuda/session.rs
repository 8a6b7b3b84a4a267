//! Memory that outlasts a pass, and programs that run in it one after the other: what a network is trained in.
//!
//! A step finds what the one before left: parameters, and what an optimizer keeps. A program runs as it is the first time, for
//! a kernel's first launch may have to load it, and from the second on as a CUDA graph.

use std::{sync::Arc, time::Duration};

use candle_core::{
    Result, bail,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaEvent, CudaStream, result, sys},
    },
};

use super::{
    Buffer, Gpu, Layout, Place, Program, Span,
    lane::wait,
    launch::{Graph, Launches},
    library::WORKSPACE,
    memory::{Memory, Pinned, Recording, recording, settled},
};

/// A stream, and the memory of programs on it. Nothing runs on it between two calls.
pub(crate) struct Session {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    programs: Vec<Ready>,
    memory: Buffer,
    /// No program here has weights that stay as they are.
    weights: Buffer,
    workspace: Buffer,
    inputs: Vec<Option<Pinned>>,
    output: Option<Pinned>,
    /// Before, between and after the programs of the last run, and whether it went well.
    marks: Vec<CudaEvent>,
    measured: usize,
    done: CudaEvent,
}

/// Writes all bytes of an input.
pub(crate) type Fill<'a> = &'a dyn Fn(&mut [u8]);

/// A program of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded(usize);

struct Ready {
    /// It goes first: what a graph's launches use has to outlive it.
    graph: Option<Graph>,
    launches: Launches,
    has_run: bool,
}

impl Ready {
    /// Starts it.
    ///
    /// # Safety
    /// As [`Launches::start`] and [`Launches::record`].
    unsafe fn start(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        if let Some(graph) = &self.graph {
            return graph.start();
        }
        if self.has_run {
            // SAFETY: as the caller's.
            let graph = unsafe { self.launches.record(stream, &recording()) }?;
            return self.graph.insert(graph).start();
        }
        self.has_run = true;
        // SAFETY: as the caller's.
        unsafe { self.launches.start(stream) }
    }
}

impl Session {
    /// Memory for all that a layout has placed, of any content.
    ///
    /// # Errors
    /// The device has too little.
    pub(crate) fn new(gpu: &Gpu, layout: Layout) -> Result<Self> {
        Ok(Self {
            stream: gpu.stream()?,
            programs: Vec::new(),
            memory: Buffer::new(gpu, layout.bytes())?,
            weights: Buffer::new(gpu, 0)?,
            workspace: Buffer::new(gpu, WORKSPACE)?,
            inputs: Vec::new(),
            output: None,
            marks: Vec::new(),
            measured: 0,
            done: gpu.event()?,
            gpu: gpu.clone(),
        })
    }

    /// Where a span is.
    ///
    /// # Errors
    /// It is not of this memory.
    fn address(&self, span: Span) -> Result<sys::CUdeviceptr> {
        match span.place {
            Place::Pass(offset) if offset + span.bytes <= self.memory.bytes() => {
                Ok(self.memory.address() + offset as u64)
            }
            _ => bail!(
                "expected a span within {} bytes, got {span:?}",
                self.memory.bytes()
            ),
        }
    }

    /// Writes a span.
    ///
    /// # Errors
    /// It is not of this memory or of another size, or the copy fails.
    pub(crate) fn write(&mut self, span: Span, bytes: &[u8]) -> Result<()> {
        let to = self.address(span)?;
        if bytes.len() != span.bytes {
            bail!("expected {} bytes, got {}", span.bytes, bytes.len())
        }
        self.gpu.bind()?;
        // SAFETY: the memory is there, nothing runs in it, and the call returns when the bytes have been read.
        unsafe { result::memcpy_htod_sync(to, bytes) }.w()?;
        // They may still be on their way from the driver's own memory, which the stream would not wait for.
        settled(self.gpu.context(), |settled| settled)
    }

    /// Makes all bytes of a span zero.
    ///
    /// # Errors
    /// It is not of this memory, or the driver refuses.
    pub(crate) fn clear(&mut self, span: Span) -> Result<()> {
        let to = self.address(span)?;
        self.gpu.bind()?;
        // SAFETY: the memory is there, and nothing else runs in it.
        let cleared =
            unsafe { result::memset_d8_async(to, 0, span.bytes, self.stream.cu_stream()) };
        cleared.and(self.stream.synchronize()).w()
    }

    /// Reads a span.
    ///
    /// # Errors
    /// It is not of this memory, or the copy fails.
    pub(crate) fn read(&self, span: Span) -> Result<Vec<u8>> {
        let from = self.address(span)?;
        let mut bytes = vec![0; span.bytes];
        self.gpu.bind()?;
        // SAFETY: the memory is there, nothing runs in it, and the call returns when all bytes are here.
        unsafe { result::memcpy_dtoh_sync(&mut bytes, from) }.w()?;
        Ok(bytes)
    }

    /// Makes a program ready to be run: its kernels are found, and libraries choose their algorithms.
    ///
    /// # Errors
    /// There is no such kernel for this card, a library cannot do what it is to, or a span is outside the memory.
    pub(crate) fn ready(&mut self, program: &Program) -> Result<Recorded> {
        self.gpu.bind()?;
        let memory = Memory {
            weights: &self.weights,
            pass: (self.memory.address(), self.memory.bytes()),
            workspace: Some(&self.workspace),
        };
        self.programs.push(Ready {
            launches: Launches::new(&self.gpu, program, memory)?,
            has_run: false,
            graph: None,
        });
        Ok(Recorded(self.programs.len() - 1))
    }

    /// Copies what fills inputs to their spans, runs programs one after the other and waits for them. Gives what is in the output
    /// then.
    ///
    /// # Errors
    /// A span is not of this memory, or a launch failed.
    ///
    /// # Panics
    /// A program is another session's.
    pub(crate) fn run(
        &mut self,
        programs: &[Recorded],
        inputs: &[(Span, Fill<'_>)],
        output: Span,
    ) -> Result<&[u8]> {
        self.gpu.bind()?;
        self.measured = 0;
        let from = self.address(output)?;
        let mut copies = Vec::with_capacity(inputs.len());
        for (span, _) in inputs {
            copies.push((self.address(*span)?, span.bytes));
        }
        if self.inputs.len() < inputs.len() {
            self.inputs.resize_with(inputs.len(), || None);
        }
        for (pinned, (span, fill)) in self.inputs.iter_mut().zip(inputs) {
            let pinned = Pinned::at_least(pinned, &self.gpu, span.bytes)?;
            fill(pinned.bytes(span.bytes));
        }
        while self.marks.len() <= programs.len() {
            self.marks.push(self.gpu.event()?);
        }
        let results = Pinned::at_least(&mut self.output, &self.gpu, output.bytes)?;
        let (stream, marks) = (&self.stream, &self.marks);
        let (pinned, ready) = (&mut self.inputs, &mut self.programs);
        let mut start = || {
            for (pinned, (to, bytes)) in pinned.iter_mut().flatten().zip(&copies) {
                // SAFETY: the span lies in the session's memory. Neither end is touched until the stream is waited for
                // below, which happens whether all is well or not.
                unsafe { pinned.send(*bytes, *to, stream) }?;
            }
            for (mark, Recorded(program)) in marks.iter().zip(programs) {
                mark.record(stream).w()?;
                // SAFETY: the programs were made for the session's memory, which stays as long as they do, and as above.
                unsafe { ready[*program].start(stream) }?;
            }
            marks[programs.len()].record(stream).w()?;
            // SAFETY: as above.
            unsafe { results.receive(output.bytes, from, stream) }
        };
        let started = start();
        let ended = wait(&self.done, &self.stream);
        started.and(ended)?;
        self.measured = programs.len();
        Ok(results.bytes(output.bytes))
    }

    /// Records programs that have run, which otherwise happens when they run again, and has all on the device that they need then.
    ///
    /// # Errors
    /// The driver refuses.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub(crate) fn record(&mut self, programs: &[Recorded], recording: &Recording) -> Result<()> {
        self.gpu.bind()?;
        for Recorded(program) in programs {
            let ready = &mut self.programs[*program];
            // SAFETY: as in `run`.
            let graph = unsafe { ready.launches.record(&self.stream, recording) }?;
            ready.graph.insert(graph).upload()?;
        }
        self.stream.synchronize().w()
    }

    /// How long the device took for each program of the last run, none if that failed.
    ///
    /// # Errors
    /// The driver refuses.
    pub(crate) fn times(&self) -> Result<Vec<Duration>> {
        let marks = self.marks.windows(2).take(self.measured);
        marks
            .map(|marks| {
                let milliseconds = marks[0].elapsed_ms(&marks[1]).w()?;
                Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
