//! What one pass at a time runs in.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{
    Result,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaEvent, CudaStream, result, sys},
    },
};

use super::{
    Buffer, Decoder, Decoding, Gpu, Layout, Place, Program, Span,
    launch::{Graph, Launches},
    memory::{Arena, Memory, Pinned, recording},
};
use crate::bench::{repeated, repetitions};

/// Bytes of what a library's products work in: there is one for each pass that runs at the same time.
const WORKSPACE: usize = 32 << 20;
/// Recorded passes that a lane keeps; they are small, and a server meets few shapes.
const MOST_GRAPHS: usize = 512;

/// A stream and the memory of passes on it. `K` tells the shapes of passes that are worth recording.
pub(crate) struct Lane<K> {
    stream: Option<Arc<CudaStream>>,
    /// Comes when a pass is over.
    done: Option<Arc<CudaEvent>>,
    arena: Arena,
    /// What a library's products work in, where a program has such.
    workspace: Option<Buffer>,
    input: Option<Pinned>,
    output: Option<Pinned>,
    /// What ran once has a place here, and what ran twice a graph: most shapes never come again, and a kernel's first
    /// launch may have to load it, which must not happen while one records.
    graphs: HashMap<K, Option<Graph>>,
}

/// A pass before it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<K> {
    /// All memory that it computes in.
    pub(crate) layout: Layout,
    /// What is copied from the host first.
    pub(crate) input: Span,
    /// What is copied to the host at the end.
    pub(crate) output: Span,
    /// Under which its launches are recorded, if they are worth it: equal keys have equal programs.
    pub(crate) key: Option<K>,
}

impl<K> Default for Lane<K> {
    fn default() -> Self {
        Self {
            stream: None,
            done: None,
            arena: Arena::default(),
            workspace: None,
            input: None,
            output: None,
            graphs: HashMap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Lane<K> {
    /// Runs a pass and waits for it: `fill` writes its input, `program` makes its launches. Gives its output.
    ///
    /// # Errors
    /// There is too little memory, or a launch failed.
    pub(crate) fn run(
        &mut self,
        gpu: &Gpu,
        weights: &Buffer,
        pass: &Pass<K>,
        fill: impl FnOnce(&mut [u8]),
        program: impl Fn() -> Result<Program>,
    ) -> Result<&[u8]> {
        let none = |_: &Arc<CudaStream>, _: Memory<'_>| Ok(());
        // SAFETY: nothing runs before it.
        unsafe { self.run_after(gpu, weights, pass, fill, none, program) }
    }

    /// The same, of which a part of the input is pictures that the device decodes: so `decoding` has it, in the pass's memory.
    /// Also gives those that it does not decode, of which the output says nothing.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) fn run_decoding(
        &mut self,
        gpu: &Gpu,
        weights: &Buffer,
        pass: &Pass<K>,
        fill: impl FnOnce(&mut [u8]),
        (decoder, decoding): (&mut Decoder, &Decoding<'_>),
        program: impl Fn() -> Result<Program>,
    ) -> Result<(&[u8], Vec<usize>)> {
        let mut refused = Vec::new();
        let before = |stream: &Arc<CudaStream>, memory: Memory<'_>| -> Result<()> {
            // SAFETY: the lane waits for the stream, and has the decoder and the pictures until then. Spans beyond the pass's memory
            // are refused.
            refused = unsafe { decoder.start(gpu, decoding, (stream, memory)) }?;
            Ok(())
        };
        // SAFETY: as above.
        let output = unsafe { self.run_after(gpu, weights, pass, fill, before, program) }?;
        Ok((output, refused))
    }

    /// Runs a pass after whatever `before` starts on its stream, in its memory.
    ///
    /// # Safety
    /// What that starts uses nothing but the pass's memory and what outlasts this call.
    unsafe fn run_after(
        &mut self,
        gpu: &Gpu,
        weights: &Buffer,
        pass: &Pass<K>,
        fill: impl FnOnce(&mut [u8]),
        before: impl FnOnce(&Arc<CudaStream>, Memory<'_>) -> Result<()>,
        program: impl Fn() -> Result<Program>,
    ) -> Result<&[u8]> {
        gpu.bind()?;
        let stream = match &self.stream {
            Some(stream) => Arc::clone(stream),
            None => Arc::clone(self.stream.insert(gpu.stream()?)),
        };
        let done = match &self.done {
            Some(done) => Arc::clone(done),
            None => Arc::clone(self.done.insert(Arc::new(gpu.event()?))),
        };
        let size = pass.layout.bytes();
        let (base, moved) = self.arena.reserve(gpu, size)?;
        if moved {
            self.graphs.clear();
        }
        let at = |span: Span| match span.place {
            Place::Pass(offset) if offset + span.bytes <= size => base + offset as u64,
            _ => panic!("expected a span of the pass's memory, got {span:?}"),
        };
        let input = Pinned::at_least(&mut self.input, gpu, pass.input.bytes)?;
        fill(input.bytes(pass.input.bytes));
        let output = Pinned::at_least(&mut self.output, gpu, pass.output.bytes)?;
        let graphs = &mut self.graphs;
        let memory = Memory {
            weights,
            pass: (base, size),
            workspace: None,
        };
        let workspace = &mut self.workspace;
        let mut ready = || {
            let program = program()?;
            if workspace.is_none() && program.wants_workspace() {
                *workspace = Some(Buffer::new(gpu, WORKSPACE)?);
            }
            let workspace = workspace.as_ref();
            Launches::new(
                gpu,
                &program,
                Memory {
                    workspace,
                    ..memory
                },
            )
        };
        // SAFETY: both spans lie in the memory just reserved, and nothing here is touched until the stream is waited for
        // below, which happens whether all is well or not. Graphs are dropped when the memory moves.
        let started = unsafe {
            input
                .send(pass.input.bytes, at(pass.input), &stream)
                .and_then(|()| before(&stream, memory))
                .and_then(|()| launch(graphs, pass.key, &stream, &mut ready))
                .and_then(|()| output.receive(pass.output.bytes, at(pass.output), &stream))
        };
        let ended = wait(&done, &stream);
        started.and(ended)?;
        if repetitions() > 0 {
            // A pass may write over its input, so that each takes it from a copy, which is part of its time.
            let kept = Buffer::new(gpu, pass.input.bytes)?;
            let (to, from) = (at(pass.input), kept.address());
            // SAFETY: as above; both ends of the copies are the size of the input.
            let repeated = unsafe {
                input
                    .send(pass.input.bytes, from, &stream)
                    .and_then(|()| stream.synchronize().w())
                    .and_then(|()| {
                        let start = Instant::now();
                        for _ in 0..repetitions() {
                            copy(to, from, pass.input.bytes, &stream)?;
                            launch(graphs, pass.key, &stream, &mut ready)?;
                        }
                        stream.synchronize().w()?;
                        repeated(start.elapsed());
                        Ok(())
                    })
            };
            // The copy goes when nothing uses it any more.
            let ended = stream.synchronize().w();
            repeated.and(ended)?;
        }
        Ok(output.bytes(pass.output.bytes))
    }
}

/// Waits until everything on the stream is over: awake for as long as a small pass takes, as waking up takes a good part of
/// that, and then asleep, for the core is one that inputs could be prepared on.
pub(super) fn wait(done: &CudaEvent, stream: &CudaStream) -> Result<()> {
    const AWAKE: Duration = Duration::from_micros(200);
    if let Err(error) = done.record(stream) {
        // What has been started may still use memory.
        return stream.synchronize().w().and(Err(error).w());
    }
    let start = Instant::now();
    while start.elapsed() < AWAKE {
        if done.is_complete() {
            break;
        }
        std::hint::spin_loop();
    }
    done.synchronize().w()
}

/// Starts a copy within the device.
///
/// # Safety
/// Both ends are in memory that stays until the stream has been waited for.
unsafe fn copy(
    to: sys::CUdeviceptr,
    from: sys::CUdeviceptr,
    bytes: usize,
    stream: &CudaStream,
) -> Result<()> {
    // SAFETY: as the caller's.
    unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) }.w()
}

/// Starts a pass's launches: as they were recorded, or one by one.
///
/// # Safety
/// As [`Launches::start`] and [`Launches::record`].
unsafe fn launch<K: Eq + Hash>(
    graphs: &mut HashMap<K, Option<Graph>>,
    key: Option<K>,
    stream: &Arc<CudaStream>,
    ready: impl FnOnce() -> Result<Launches>,
) -> Result<()> {
    match key.as_ref().and_then(|key| graphs.get_mut(key)) {
        Some(Some(graph)) => graph.start(),
        Some(graph) => {
            // SAFETY: as the caller's.
            let recorded = unsafe { ready()?.record(stream, &recording()) }?;
            graph.insert(recorded).start()
        }
        None => {
            // SAFETY: as the caller's.
            unsafe { ready()?.start(stream) }?;
            if let Some(key) = key {
                if graphs.len() >= MOST_GRAPHS {
                    graphs.clear();
                }
                graphs.insert(key, None);
            }
            Ok(())
        }
    }
}
