//! Pictures among a pass's input: where they are decoded, and the launches that make squares of them.
//!
//! Plain data like a pass. They are decoded in groups, one after the other in the same memory, so that this is bounded whatever a
//! batch's pictures are like.

use std::{collections::HashMap, ops::Range, ptr};

use candle_core::Result;

use super::{Argument, Grid, Layout, Program, Source, Span};
use crate::picture::{Axis, Picture};

/// Bytes of pixels that are decoded at once, if there are so many: those of 470 pictures of 500 by 375.
const GROUP: usize = 256 << 20;
/// Bytes of a picture's description, as `cuda/resize.cu` has it.
const DESCRIPTION: usize = 48;
/// Colours of a pixel.
const COLOURS: usize = 3;
const TILE: usize = 32;

/// Where a pass's pictures are decoded, and what is made of them.
#[derive(Debug)]
pub(crate) struct Decoding<'a> {
    pub(crate) pictures: &'a [Picture<'a>],
    /// Descriptions and weights of all pictures, which the host writes.
    pub(crate) tables: Span,
    /// Where among the weights, in words, those of each picture begin.
    weights: Vec<usize>,
    pub(crate) groups: Vec<Group>,
}

/// Pictures that are decoded at once.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pictures: Range<usize>,
    /// Where the pixels of each go.
    pub(crate) pixels: Vec<Span>,
    /// Makes squares of them.
    pub(crate) program: Program,
}

impl<'a> Decoding<'a> {
    /// Places for pictures whose squares go to `squares`, beside whatever `layout` has placed.
    ///
    /// # Errors
    /// They are too many for a launch.
    ///
    /// # Panics
    /// A picture makes a square of another size.
    pub(crate) fn new(
        pictures: &'a [Picture<'a>],
        squares: Span,
        layout: &mut Layout,
    ) -> Result<Self> {
        let Some(first) = pictures.first() else {
            return Ok(Self {
                pictures,
                tables: squares.first(0),
                weights: Vec::new(),
                groups: Vec::new(),
            });
        };
        let side = first.resize.side();
        assert!(
            pictures.iter().all(|picture| picture.resize.side() == side),
            "squares of one size"
        );
        let (weights, words) = places(pictures);
        let heads = pictures.len() * DESCRIPTION;
        // Powers of two, as memory that grows by a little each time is taken anew each time.
        let tables = layout.place((heads + 4 * words).next_power_of_two());
        let groups = grouped(pictures);
        let most = groups.iter().map(|group| room(&pictures[group.clone()]));
        let room = layout.place(most.max().unwrap_or(0).next_power_of_two());
        let square = side * side * COLOURS;
        let group = |pictures_of: Range<usize>| -> Result<Group> {
            let group = &pictures[pictures_of.clone()];
            let mut inner = Layout::default();
            let pixels = group.iter().map(|picture| {
                let start = inner.bytes();
                inner.place(picture.resize.bytes());
                room.part(start, picture.resize.bytes())
            });
            let pixels = pixels.collect();
            let lines = group.iter().map(|picture| picture.resize.lines()).max();
            let tiles = side.div_ceil(TILE);
            let grid = Grid {
                blocks: [tiles, tiles, group.len()],
                threads: 256,
                shared: (lines.unwrap_or(0) * TILE * COLOURS) as u32,
            };
            let arguments = [
                room.read(),
                (tables.part(pictures_of.start * DESCRIPTION, group.len() * DESCRIPTION)).read(),
                tables.part(heads, tables.bytes - heads).read(),
                (squares.part(pictures_of.start * square, group.len() * square)).write(),
                Argument::from(side),
            ];
            let mut program = Program::default();
            // SAFETY: the arguments are those that the head of `resize.cu` lists. `write` describes pictures within `room`.
            unsafe { program.push((Source::Resize, "resize"), grid, arguments) }?;
            Ok(Group {
                pictures: pictures_of,
                pixels,
                program,
            })
        };
        let groups = groups.into_iter().map(group).collect::<Result<_>>()?;
        Ok(Self {
            pictures,
            tables,
            weights,
            groups,
        })
    }

    /// Writes descriptions and weights as the device reads them.
    ///
    /// # Panics
    /// There is less room than `tables` have.
    pub(crate) fn write(&self, to: &mut [u8]) {
        let (heads, weights) = to.split_at_mut(self.pictures.len() * DESCRIPTION);
        let mut heads = heads.as_chunks_mut::<DESCRIPTION>().0.iter_mut();
        let words = weights.as_chunks_mut::<4>().0;
        let mut written = 0;
        for group in &self.groups {
            let members = group.pictures.clone();
            for (member, (pixels, head)) in members.zip(group.pixels.iter().zip(&mut heads)) {
                let resize = self.pictures[member].resize;
                let columns = self.weights[member];
                if columns == written {
                    let values = resize.axes().iter().flat_map(Axis::words);
                    for (to, value) in words[written..].iter_mut().zip(values) {
                        *to = value.to_le_bytes();
                        written += 1;
                    }
                }
                let rows = columns + resize.axes()[0].words().len();
                let start = group.pixels[0].distance(*pixels) + resize.first() * COLOURS;
                let [right, down] = resize.steps().map(|step| (step * COLOURS as isize) as u64);
                let [width, height] = resize.shown();
                let [column_taps, row_taps] = resize.axes().each_ref().map(Axis::taps);
                for (to, value) in
                    head.as_chunks_mut()
                        .0
                        .iter_mut()
                        .zip([start as u64, right, down])
                {
                    *to = value.to_le_bytes();
                }
                let numbers = [columns, rows, column_taps, row_taps, width, height];
                for (to, number) in head[24..].as_chunks_mut().0.iter_mut().zip(numbers) {
                    *to = (number as u32).to_le_bytes();
                }
            }
        }
    }
}

/// Where each picture's weights begin, in words, and how many words all are. Pictures that share a way of resizing share them.
fn places(pictures: &[Picture<'_>]) -> (Vec<usize>, usize) {
    let (mut found, mut words) = (HashMap::new(), 0);
    let place = |picture: &Picture<'_>| {
        *found
            .entry(ptr::from_ref(picture.resize))
            .or_insert_with(|| {
                let axes = picture.resize.axes().iter();
                let start = words;
                words += axes.map(|axis| axis.words().len()).sum::<usize>();
                start
            })
    };
    let places = pictures.iter().map(place).collect();
    (places, words)
}

/// Bytes of pictures' pixels, as they are placed.
fn room(pictures: &[Picture<'_>]) -> usize {
    let mut layout = Layout::default();
    for picture in pictures {
        layout.place(picture.resize.bytes());
    }
    layout.bytes()
}

/// Pictures one after the other, in groups that fit into memory; one that does not by itself is a group.
fn grouped(pictures: &[Picture<'_>]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut taken = 0;
    for (i, picture) in pictures.iter().enumerate() {
        let bytes = room(std::slice::from_ref(picture));
        match groups.last_mut() {
            Some(group) if taken + bytes <= GROUP => {
                group.end = i + 1;
                taken += bytes;
            }
            _ => {
                groups.push(i..i + 1);
                taken = bytes;
            }
        }
    }
    groups
}

#[cfg(feature = "cuda")]
pub(crate) use on_device::Decoder;

#[cfg(feature = "cuda")]
mod on_device {
    use std::sync::Arc;

    use candle_core::{
        Result,
        cuda_backend::{WrapErr, cudarc::driver::CudaStream},
    };

    use super::Decoding;
    use crate::cuda::{
        Gpu,
        handles::{Job, NvJpeg, State},
        launch::Launches,
        memory::{Memory, Pinned, decoding},
    };

    /// What the pictures of one pass at a time are decoded with.
    #[derive(Default)]
    pub(crate) struct Decoder {
        state: Option<State>,
        tables: Option<Pinned>,
    }

    impl Decoder {
        /// Starts decoding pictures and making squares of them; the device is the calling thread's. Gives those that the library
        /// does not decode.
        ///
        /// # Errors
        /// The host has too little memory that can be pinned, or a launch failed.
        ///
        /// # Safety
        /// The memory is there and nobody else's until the stream has been waited for, and until then nobody uses this decoder.
        pub(in crate::cuda) unsafe fn start(
            &mut self,
            gpu: &Gpu,
            decoding: &Decoding<'_>,
            (stream, memory): (&Arc<CudaStream>, Memory<'_>),
        ) -> Result<Vec<usize>> {
            if decoding.groups.is_empty() {
                return Ok(Vec::new());
            }
            let tables = decoding.tables;
            let pinned = Pinned::at_least(&mut self.tables, gpu, tables.bytes)?;
            decoding.write(pinned.bytes(tables.bytes));
            // SAFETY: as the caller's.
            unsafe { pinned.send(tables.bytes, memory.address(tables)?, stream) }?;
            let mut refused = Vec::new();
            for group in &decoding.groups {
                if group.pictures.start > 0 {
                    // What the library keeps of the files before is theirs until they are decoded.
                    stream.synchronize().w()?;
                }
                let mut jobs = Vec::with_capacity(group.pixels.len());
                let members = decoding.pictures[group.pictures.clone()].iter();
                for (picture, pixels) in members.zip(&group.pixels) {
                    jobs.push(Job {
                        file: picture.file,
                        to: memory.address(*pixels)?,
                        size: picture.resize.size(),
                    });
                }
                // SAFETY: as the caller's.
                let alone = unsafe { self.decode(gpu.handles().nvjpeg(), &jobs, stream) }?;
                refused.extend(alone.into_iter().map(|place| group.pictures.start + place));
                // SAFETY: as the caller's; the pixels are written by what is before it on the stream.
                unsafe { Launches::new(gpu, &group.program, memory)?.start(stream) }?;
            }
            Ok(refused)
        }

        /// Decodes files together, or each by itself where that is refused. Gives those that are refused even then, and those of
        /// another size than there is room for.
        ///
        /// # Safety
        /// As [`State::decode`].
        unsafe fn decode(
            &mut self,
            library: Option<&NvJpeg>,
            jobs: &[Job<'_>],
            stream: &Arc<CudaStream>,
        ) -> Result<Vec<usize>> {
            let Some(library) = library else {
                return Ok((0..jobs.len()).collect());
            };
            // The library allocates and frees by itself, which nobody may record beside.
            let _decoding = decoding();
            let is_as_said = |job: &Job<'_>| library.size(job.file) == Some(job.size);
            let places = 0..jobs.len();
            let (fit, mut refused): (Vec<usize>, Vec<usize>) =
                places.partition(|&place| is_as_said(&jobs[place]));
            let together: Vec<Job<'_>> = fit.iter().map(|&place| jobs[place]).collect();
            // SAFETY: as the caller's.
            if together.is_empty() || unsafe { self.together(library, &together, stream) } {
                return Ok(refused);
            }
            for (place, job) in fit.into_iter().zip(&together) {
                // Whatever a refusal leaves behind goes with its state, once nothing runs any more.
                stream.synchronize().w()?;
                self.state = None;
                // SAFETY: as the caller's.
                if !unsafe { self.together(library, std::slice::from_ref(job), stream) } {
                    refused.push(place);
                }
            }
            stream.synchronize().w()?;
            self.state = None;
            Ok(refused)
        }

        /// # Safety
        /// As [`State::decode`].
        unsafe fn together(
            &mut self,
            library: &NvJpeg,
            jobs: &[Job<'_>],
            stream: &Arc<CudaStream>,
        ) -> bool {
            if self.state.is_none() {
                self.state = State::new(library);
            }
            let stream = stream.cu_stream().cast();
            // SAFETY: as the caller's.
            (self.state.as_mut())
                .is_some_and(|state| unsafe { state.decode(library, jobs, stream) })
        }
    }
}

#[cfg(test)]
mod tests;
