//! What goes over values one by one on a CUDA device, as far as it is copies, sums, gates and other elements; and how such work
//! is given to threads.

use candle_core::Result;

use crate::{
    cuda::{Argument, Draft, Element, Grid, Source, Span},
    graph::Shape,
    ops::Onto,
};

/// Threads of a block.
pub(crate) const BLOCK: usize = 256;
/// Bytes that are read or written at once, at most.
const ACCESS: usize = 16;
/// Values that change their element at once.
const CHANGED: usize = 4;

/// Some channels of pixels, `[pixels, pitch]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    /// All channels of all pixels.
    pub(crate) span: Span,
    /// The first of them.
    pub(crate) first: usize,
    /// Values from one pixel to the next.
    pub(crate) pitch: usize,
}

impl Columns {
    /// All channels.
    pub(crate) fn all(span: Span, channels: usize) -> Self {
        Self {
            span,
            first: 0,
            pitch: channels,
        }
    }
}

/// `y = a + b`; `y` may be either. All have `len` values.
///
/// # Errors
/// They are too many for a launch; so for all that follow.
pub(crate) fn sum(draft: &mut Draft, [a, b, y]: [Span; 3], len: usize) -> Result<()> {
    launch_sum(draft, (a, Some(b)), y, len)
}

/// Hands `len` values of a gradient on.
pub(crate) fn give(draft: &mut Draft, [from, to]: [Span; 2], onto: Onto, len: usize) -> Result<()> {
    match onto {
        Onto::Write => launch_sum(draft, (from, None), to, len),
        Onto::Add => launch_sum(draft, (to, Some(from)), to, len),
    }
}

fn launch_sum(draft: &mut Draft, (a, b): (Span, Option<Span>), y: Span, len: usize) -> Result<()> {
    let (counts, grid) = in_a_row(draft.target.element, len);
    let spans = [a.read(), b.into(), y.write()];
    let arguments = spans.into_iter().chain(counts);
    // SAFETY: the kernel takes these, and the spans hold `len` values.
    unsafe { draft.launch((Source::TrainValues, "sum"), grid, arguments) }
}

/// Copies so many channels of each pixel, or adds them to what is there.
pub(crate) fn copy(
    draft: &mut Draft,
    [pixels, channels]: [usize; 2],
    [from, to]: [Columns; 2],
    onto: Onto,
) -> Result<()> {
    if from.pitch == channels && to.pitch == channels {
        return give(draft, [from.span, to.span], onto, pixels * channels);
    }
    let kind = match onto {
        Onto::Write => 0,
        Onto::Add => 1,
    };
    launch_copy(draft, [pixels, channels], [from, to], kind)
}

/// Copies so many channels of each pixel; all other channels of `to` become zeros.
pub(crate) fn copy_alone(
    draft: &mut Draft,
    sizes: [usize; 2],
    columns: [Columns; 2],
) -> Result<()> {
    launch_copy(draft, sizes, columns, ALONE)
}

/// The kernel's number of a copy with zeros around it.
const ALONE: usize = 2;

fn launch_copy(
    draft: &mut Draft,
    [pixels, channels]: [usize; 2],
    [from, to]: [Columns; 2],
    kind: usize,
) -> Result<()> {
    let element = draft.target.element;
    let numbers = [channels, from.first, from.pitch, to.first, to.pitch];
    let length = vector(element, &numbers);
    let width = if kind == ALONE { to.pitch } else { channels };
    let grid = rows(element, pixels * width / length, length);
    let arguments = [
        from.span.read(),
        from.pitch.into(),
        from.first.into(),
        to.span.write(),
        to.pitch.into(),
        to.first.into(),
        pixels.into(),
        channels.into(),
        kind.into(),
        length.into(),
    ];
    // SAFETY: the kernel takes these, and the spans hold so many pixels.
    unsafe { draft.launch((Source::TrainValues, "copy"), grid, arguments) }
}

/// Channels that are multiplied by their image's gates: `y = x * gates`. `x` and `y` are `[images, pixels, channels]`, gates
/// `[images, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub(crate) images: usize,
    /// Of an image.
    pub(crate) shape: Shape,
    pub(crate) x: Factor,
    pub(crate) gates: Span,
    pub(crate) y: Span,
    pub(crate) onto: Onto,
}

/// What gates are multiplied by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Factor {
    /// Values of their own.
    Values(Span),
    /// The same everywhere.
    Same(f32),
}

impl Gate {
    /// Adds its launch.
    pub(crate) fn launch(self, draft: &mut Draft) -> Result<()> {
        let (element, shape) = (draft.target.element, self.shape);
        let length = vector(element, &[shape.channels]);
        let mut grid = rows(element, shape.values() / length, length);
        grid.blocks[1] = self.images;
        let (x, factor) = match self.x {
            Factor::Values(x) => (Some(x), 0.0),
            Factor::Same(factor) => (None, factor),
        };
        let arguments = [
            x.into(),
            self.gates.read(),
            self.y.write(),
            shape.pixels().into(),
            shape.channels.into(),
            factor.into(),
            adds(self.onto),
            length.into(),
        ];
        // SAFETY: the kernel takes these, and the spans are of these shapes.
        unsafe { draft.launch((Source::TrainValues, "gate"), grid, arguments) }
    }
}

/// `len` values of f32 in the element that is computed in: an input, or a copy of parameters.
pub(crate) fn cast(draft: &mut Draft, [from, to]: [Span; 2], len: usize) -> Result<()> {
    let (counts, grid) = by_vectors(CHANGED, len);
    let arguments = [from.read(), to.write()].into_iter().chain(counts);
    // SAFETY: the kernel takes these, and the spans hold `len` values.
    unsafe { draft.launch((Source::TrainValues, "cast"), grid, arguments) }
}

/// Whether a kernel adds to what is there.
pub(crate) fn adds(onto: Onto) -> Argument {
    usize::from(onto == Onto::Add).into()
}

/// Values that an access takes: as many as divide all numbers.
pub(crate) fn vector(element: Element, numbers: &[usize]) -> usize {
    let mut length = ACCESS / element.size();
    while numbers.iter().any(|number| !number.is_multiple_of(length)) {
        length /= 2;
    }
    length
}

/// Of `len` values in a row the vectors and what is left, as kernels take them, and their grid.
pub(crate) fn in_a_row(element: Element, len: usize) -> ([Argument; 2], Grid) {
    by_vectors(ACCESS / element.size(), len)
}

fn by_vectors(length: usize, len: usize) -> ([Argument; 2], Grid) {
    let counts = [len / length, len % length];
    let grid = Grid::row(len.div_ceil(length).div_ceil(BLOCK), BLOCK as u32);
    (counts.map(Argument::from), grid)
}

/// The grid of so many vectors of rows, each of `length` values.
pub(crate) fn rows(element: Element, vectors: usize, length: usize) -> Grid {
    let each = if length * element.size() == ACCESS {
        2
    } else {
        4
    };
    Grid::row(vectors.div_ceil(BLOCK * each), BLOCK as u32)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cuda::{Launch, Layout, Place, Target};

    /// What an operator launches on an H100 for spans of so many bytes. It stays within memory, and gives kernels what they take.
    pub(crate) fn launches<const N: usize>(
        element: Element,
        bytes: [usize; N],
        make: impl FnOnce(&mut Draft, [Span; N]) -> Result<()>,
    ) -> Vec<Launch> {
        let mut layout = Layout::default();
        let spans = bytes.map(|bytes| layout.place(bytes));
        let mut draft = Draft::new(Target::hopper(element), layout);
        make(&mut draft, spans).unwrap();
        let (program, layout) = draft.finish();
        for launch in program.launches() {
            for argument in &launch.arguments {
                let (Argument::Read(span) | Argument::Write(span)) = argument else {
                    continue;
                };
                let Place::Pass(start) = span.place else {
                    panic!("{} is given weights", launch.kernel)
                };
                let end = start + span.bytes;
                assert!(end <= layout.bytes(), "{}: {span:?}", launch.kernel);
            }
        }
        #[cfg(feature = "cuda")]
        crate::cuda::tests::check_signatures(&program);
        program.launches().cloned().collect()
    }

    #[test]
    fn vectors_divide_all_channels_and_pitches() {
        for (numbers, half, single) in [
            (&[64, 0, 64][..], 8, 4),
            (&[58, 116], 2, 2),
            (&[12, 0, 8], 4, 4),
            (&[3], 1, 1),
        ] {
            let lengths = [Element::F16, Element::F32].map(|element| vector(element, numbers));
            assert_eq!(lengths, [half, single], "{numbers:?}");
        }
    }

    #[test]
    fn threads_have_all_values() {
        for len in [1, 7, 8, 2047, 2048, 2049, 100_003] {
            let [launch] = &launches(Element::F16, [2 * len; 3], |draft, spans| {
                sum(draft, spans, len)
            })[..] else {
                panic!("one launch")
            };
            assert_eq!(launch.grid.blocks, [len.div_ceil(8).div_ceil(256), 1, 1]);
            assert_eq!(
                launch.arguments[3..],
                [len / 8, len % 8].map(Argument::from)
            );
        }
        for (element, channels, length, each) in [
            (Element::F16, 64, 8, 2),
            (Element::F16, 58, 2, 4),
            (Element::F16, 3, 1, 4),
            (Element::F32, 3, 1, 4),
        ] {
            let (pixels, pitch) = (1000, 4 * channels);
            let bytes = [pixels * channels, pixels * pitch].map(|len| len * element.size());
            let made = launches(element, bytes, |draft, [from, to]| {
                let to = Columns {
                    span: to,
                    first: channels,
                    pitch,
                };
                let columns = [Columns::all(from, channels), to];
                copy(draft, [pixels, channels], columns, Onto::Write)?;
                copy_alone(draft, [pixels, channels], columns)
            });
            for (launch, width) in made.iter().zip([channels, pitch]) {
                let blocks = launch.grid.blocks[0];
                let values = length * each * BLOCK;
                assert_eq!(blocks, (pixels * width).div_ceil(values), "{launch:?}");
                assert_eq!(launch.arguments[9], Argument::from(length));
            }
        }
    }

    #[test]
    fn what_has_nothing_beside_it_goes_in_a_row() {
        let made = launches(Element::F32, [4 * 300; 2], |draft, spans| {
            let columns = spans.map(|span| Columns::all(span, 3));
            copy(draft, [100, 3], columns, Onto::Add)
        });
        assert_eq!(made[0].kernel, "sum_f32");
        assert_eq!(
            made[0].arguments[0],
            Argument::Read(Span {
                place: Place::Pass(1280),
                bytes: 1200
            })
        );
        assert_eq!(made.len(), 1);
    }
}
