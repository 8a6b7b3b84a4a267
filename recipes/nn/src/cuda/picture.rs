//! Pictures among a pass's input: where they are decoded, and the launches that make squares of them.
//!
//! Plain data like a pass. They are decoded in groups, one after the other in the same memory, so that this is bounded whatever a
//! batch's pictures are like.

use std::ops::Range;

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
                groups: Vec::new(),
            });
        };
        let side = first.resize.side();
        assert!(
            pictures.iter().all(|picture| picture.resize.side() == side),
            "squares of one size"
        );
        let words: usize = pictures.iter().map(words).sum();
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
        let mut used = 0;
        for group in &self.groups {
            let members = self.pictures[group.pictures.clone()].iter();
            for (picture, (pixels, head)) in members.zip(group.pixels.iter().zip(&mut heads)) {
                let resize = picture.resize;
                let columns = used;
                for word in resize.axes().iter().flat_map(Axis::words) {
                    words[used] = word.to_le_bytes();
                    used += 1;
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

/// Words of a picture's weights.
fn words(picture: &Picture<'_>) -> usize {
    let axes = picture.resize.axes().iter();
    axes.map(|axis| axis.words().len()).sum()
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
mod tests {
    use super::*;
    use crate::{cuda::Place, picture::Resize};

    fn resize(size: [usize; 2], turn: [bool; 3]) -> Resize {
        const HALVES: &[i32] = &[1 << 21, 1 << 21];
        let taps = vec![(0, HALVES); 40];
        Resize::new(size, turn, [Axis::new(&taps), Axis::new(&taps)]).unwrap()
    }

    #[test]
    fn descriptions_are_as_the_kernel_reads_them() {
        let resizes = [
            resize([5, 4], [false; 3]),
            resize([7, 3], [true, false, true]),
        ];
        let pictures: Vec<Picture<'_>> = resizes
            .iter()
            .map(|resize| Picture { file: &[], resize })
            .collect();
        let mut layout = Layout::default();
        let squares = layout.place(2 * 40 * 40 * 3);
        let decoding = Decoding::new(&pictures, squares, &mut layout).unwrap();
        let [group] = &decoding.groups[..] else {
            panic!("expected one group, got {:?}", decoding.groups)
        };
        let mut bytes = vec![0; decoding.tables.bytes];
        decoding.write(&mut bytes);
        let long = |at: usize| i64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let word = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!([0, 8, 16].map(long), [0, 3, 15]);
        assert_eq!([24, 28, 32, 36, 40, 44].map(word), [0, 120, 2, 2, 5, 4]);
        // The second begins 256 bytes later, at its last line, which becomes its first column.
        assert_eq!([48, 56, 64].map(long), [256 + 2 * 21, -21, 3]);
        assert_eq!([72, 76, 80, 84, 88, 92].map(word), [240, 360, 2, 2, 3, 7]);
        let tables: Vec<i32> = (0..480).map(|i| word(96 + 4 * i)).collect();
        assert_eq!(tables, [vec![0; 40], vec![1 << 21; 80]].concat().repeat(4));
        let launch = group.program.launches().next().unwrap();
        assert_eq!(launch.grid.blocks, [2, 2, 2]);
        assert_eq!(launch.arguments.last(), Some(&Argument::from(40)));
    }

    #[test]
    fn all_lies_in_the_memory_and_apart() {
        let large = resize([8192, 1024], [false; 3]);
        let pictures = vec![
            Picture {
                file: &[],
                resize: &large
            };
            25
        ];
        let mut layout = Layout::default();
        let squares = layout.place(25 * 40 * 40 * 3);
        let before = layout.bytes();
        let decoding = Decoding::new(&pictures, squares, &mut layout).unwrap();
        let ranges: Vec<_> = decoding
            .groups
            .iter()
            .map(|group| group.pictures.clone())
            .collect();
        assert_eq!(ranges, [0..10, 10..20, 20..25]);
        for group in &decoding.groups {
            for pixels in &group.pixels {
                let Place::Pass(start) = pixels.place else {
                    panic!("expected a place of the pass, got {pixels:?}")
                };
                assert!(start >= before + decoding.tables.bytes);
                assert!(start + pixels.bytes <= layout.bytes());
            }
            assert!(
                group
                    .pixels
                    .windows(2)
                    .all(|pair| pair[0].distance(pair[1]) >= pair[0].bytes)
            );
        }
    }
}
