//! Pools on a CUDA device, there and back, and sums over all pixels of an image.

use candle_core::{Result, bail};

use super::Fields;
use crate::{
    cuda::{Argument, Draft, Grid, Source, Span},
    graph::{Pool, Reduction, Shape},
    ops::{
        Onto,
        pixels::cuda::{BLOCK, Factor, Gate, adds, vector},
    },
};

/// Places of a window that a byte tells apart.
const MOST_PLACES: usize = 256;
/// Vectors of a block that sums up pixels, at most.
const MOST_WIDE: usize = 32;
/// Pixels of a thread that sums them up, at least.
const LEAST_PIXELS: usize = 8;

/// A pool of so many images of shape `from`, which become of shape `to`.
#[derive(Clone, Copy)]
pub(crate) struct Pooling<'a> {
    pub(crate) fields: &'a Fields<'a>,
    pub(crate) images: usize,
    pub(crate) from: Shape,
    pub(crate) to: Shape,
}

impl Pooling<'_> {
    /// Adds the launches of its way there.
    ///
    /// # Errors
    /// The images are too many for a launch.
    pub(crate) fn forward(&self, draft: &mut Draft, [x, y]: [Span; 2]) -> Result<()> {
        if self.is_of_the_whole() {
            let total = Total {
                images: self.images,
                shape: self.from,
                x,
                other: None,
                out: y,
                factor: self.share(),
                onto: Onto::Write,
            };
            return total.launch(draft);
        }
        let length = vector(draft.target.element, &[self.to.channels]);
        let arguments = ([x.read(), y.write()].into_iter())
            .chain(self.numbers())
            .chain([self.kind().into(), length.into()]);
        let grid = self.grid(self.to, length);
        // SAFETY: the kernel takes these, and the spans are of these shapes.
        unsafe { draft.launch((Source::TrainPool, "pool"), grid, arguments) }
    }

    /// Adds the launches of its way back. `x` is what it read; a mean does not read it.
    ///
    /// # Errors
    /// As for `forward`, or it is a maximum of more pixels than a byte tells apart.
    pub(crate) fn backward(
        &self,
        draft: &mut Draft,
        [x, dy, dx]: [Span; 3],
        onto: Onto,
    ) -> Result<()> {
        if self.is_of_the_whole() {
            let gate = Gate {
                images: self.images,
                shape: self.from,
                x: Factor::Same(self.share()),
                gates: dy,
                y: dx,
                onto,
            };
            return gate.launch(draft);
        }
        let length = vector(draft.target.element, &[self.to.channels]);
        let which = match self.fields {
            Fields::Pool(pool) if pool.reduction == Reduction::Max => {
                Some(self.largest(draft, pool, x, length)?)
            }
            _ => None,
        };
        let arguments = ([which.into(), dy.read(), dx.write()].into_iter())
            .chain(self.numbers())
            .chain([self.kind().into(), adds(onto), length.into()]);
        let grid = self.grid(self.from, length);
        // SAFETY: as for `forward`.
        unsafe { draft.launch((Source::TrainPool, "pool_back"), grid, arguments) }
    }

    /// Of each output which pixel of its window is the first of the largest.
    fn largest(&self, draft: &mut Draft, pool: &Pool, x: Span, length: usize) -> Result<Span> {
        let [down, across] = pool.window.kernel;
        if down * across > MOST_PLACES {
            bail!("expected a window of at most {MOST_PLACES} pixels, got {down} by {across}")
        }
        let [which] = draft.scratch([self.images * self.to.values()]);
        let arguments = ([x.read(), which.write()].into_iter())
            .chain(self.numbers())
            .chain([length.into()]);
        let grid = self.grid(self.to, length);
        // SAFETY: as for `forward`.
        unsafe { draft.launch((Source::TrainPool, "largest"), grid, arguments)? };
        Ok(which)
    }

    /// Whether each image becomes the mean of all its pixels.
    fn is_of_the_whole(&self) -> bool {
        let is_all = match self.fields {
            Fields::Even => true,
            Fields::Pool(pool) => {
                pool.reduction != Reduction::Max
                    && pool.window.kernel == [self.from.height, self.from.width]
                    && pool.window.padding == [0; 2]
            }
        };
        is_all && self.to.pixels() == 1
    }

    /// A pixel's part in the mean of all.
    fn share(&self) -> f32 {
        1.0 / self.from.pixels() as f32
    }

    /// The channels, and what the kernels call FIELDS.
    fn numbers(&self) -> impl Iterator<Item = Argument> {
        let (from, to) = (self.from, self.to);
        let sizes = [to.channels, from.height, from.width, to.height, to.width];
        // A kernel of no height means even fields.
        let window = match self.fields {
            Fields::Even => [[0; 2], [1; 2], [0; 2]],
            Fields::Pool(pool) => [pool.window.kernel, pool.window.stride, pool.window.padding],
        };
        (sizes.into_iter())
            .chain(window.into_iter().flatten())
            .map(Argument::from)
    }

    fn kind(&self) -> usize {
        match self.fields {
            Fields::Pool(pool) => match pool.reduction {
                Reduction::Max => 0,
                Reduction::Mean {
                    count_padding: true,
                } => 1,
                Reduction::Mean { .. } => 2,
            },
            Fields::Even => 2,
        }
    }

    /// A thread for each vector of the lines of such images.
    fn grid(&self, shape: Shape, length: usize) -> Grid {
        let vectors = shape.width * shape.channels / length;
        Grid {
            blocks: [shape.height, vectors.div_ceil(BLOCK), self.images],
            threads: BLOCK as u32,
            shared: 0,
        }
    }
}

/// Sums over the pixels of each image, times a factor: of `x`, or of `x * other`. Both are `images` of `shape`, sums are
/// `[images, channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Total {
    pub(crate) images: usize,
    pub(crate) shape: Shape,
    pub(crate) x: Span,
    pub(crate) other: Option<Span>,
    pub(crate) out: Span,
    pub(crate) factor: f32,
    pub(crate) onto: Onto,
}

impl Total {
    /// Adds its launches.
    ///
    /// # Errors
    /// The images are too many for a launch.
    pub(crate) fn launch(self, draft: &mut Draft) -> Result<()> {
        let Shape { channels, .. } = self.shape;
        let (target, images, pixels) = (draft.target, self.images, self.shape.pixels());
        let length = vector(target.element, &[channels]);
        let vectors = channels / length;
        let tiles = vectors.div_ceil(MOST_WIDE);
        let wide = vectors.div_ceil(tiles);
        // As many parts of an image as give every processor four blocks, if there is enough for each thread then.
        let most = pixels.div_ceil(BLOCK / wide * LEAST_PIXELS);
        let part = pixels.div_ceil((4 * target.processors).div_ceil(tiles * images).min(most));
        let parts = pixels.div_ceil(part);
        let partial = (parts > 1).then(|| {
            let [partial] = draft.scratch([images * parts * channels * 4]);
            partial
        });
        let arguments = [
            self.x.read(),
            self.other.into(),
            partial.map_or(Argument::Null, Span::write),
            self.out.write(),
            pixels.into(),
            channels.into(),
            wide.into(),
            part.into(),
            self.factor.into(),
            adds(self.onto),
            length.into(),
        ];
        let grid = Grid {
            blocks: [tiles, parts, images],
            threads: BLOCK as u32,
            shared: 0,
        };
        // SAFETY: the kernel takes these, and the spans are of these shapes.
        unsafe { draft.launch((Source::TrainPool, "total"), grid, arguments)? };
        let Some(partial) = partial else {
            return Ok(());
        };
        let arguments = [
            partial.read(),
            self.out.write(),
            images.into(),
            channels.into(),
            parts.into(),
            self.factor.into(),
            adds(self.onto),
        ];
        let grid = Grid::row((images * channels).div_ceil(BLOCK), BLOCK as u32);
        // SAFETY: as above.
        unsafe { draft.launch((Source::TrainPool, "join"), grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cuda::{Element, Launch},
        ops::pixels::cuda::tests::launches,
    };

    fn shape(channels: usize, height: usize, width: usize) -> Shape {
        Shape {
            channels,
            height,
            width,
        }
    }

    /// What a pool launches there, and back.
    fn both(fields: &Fields<'_>, [from, to]: [Shape; 2]) -> [Vec<Launch>; 2] {
        let (images, size) = (5, 2);
        let pooling = Pooling {
            fields,
            images,
            from,
            to,
        };
        let bytes = [from, to].map(|shape| images * shape.values() * size);
        let spans = [bytes[0], bytes[1], bytes[0]];
        [
            launches(Element::F16, spans, |draft, [x, y, _]| {
                pooling.forward(draft, [x, y])
            }),
            launches(Element::F16, spans, |draft, [x, dy, dx]| {
                pooling.backward(draft, [x, dy, dx], Onto::Add)
            }),
        ]
    }

    fn names(launches: &[Launch]) -> Vec<&str> {
        launches.iter().map(|launch| &launch.kernel[..]).collect()
    }

    #[test]
    fn every_vector_of_every_line_has_a_thread() {
        let pool = Pool::max(3).stride(2).padding(1);
        let [there, back] = both(
            &Fields::Pool(&pool),
            [shape(64, 112, 112), shape(64, 56, 56)],
        );
        assert_eq!(names(&there), ["pool_f16"]);
        assert_eq!(there[0].grid.blocks, [56, 2, 5]);
        assert_eq!(names(&back), ["largest_f16", "pool_back_f16"]);
        assert_eq!(back[0].grid.blocks, [56, 2, 5]);
        assert_eq!(back[1].grid.blocks, [112, 4, 5]);
        // Fields are no window.
        let [there, back] = both(&Fields::Even, [shape(58, 13, 13), shape(58, 7, 7)]);
        assert_eq!(there[0].grid.blocks, [7, 1, 5]);
        let zeros = [7, 8].map(|i| there[0].arguments[i]);
        assert_eq!(zeros, [Argument::from(0usize); 2]);
        assert_eq!(back[0].arguments[0], Argument::Null);
    }

    #[test]
    fn the_mean_of_a_whole_image_is_a_sum_and_goes_back_as_a_factor() {
        let sizes = [shape(2048, 7, 7), shape(2048, 1, 1)];
        for fields in [Fields::Even, Fields::Pool(&Pool::mean(7))] {
            let [there, back] = both(&fields, sizes);
            assert_eq!(names(&there), ["total_f16"]);
            assert_eq!(there[0].grid.blocks, [8, 1, 5]);
            assert_eq!(names(&back), ["gate_f16"]);
            assert_eq!(back[0].grid.blocks, [(49 * 256usize).div_ceil(512), 5, 1]);
        }
        // Few channels and many pixels are summed up in parts.
        let [there, _] = both(&Fields::Even, [shape(32, 112, 112), shape(32, 1, 1)]);
        assert_eq!(names(&there), ["total_f16", "join_f16"]);
        let [tiles, parts, images] = there[0].grid.blocks;
        let Argument::Word(part) = there[0].arguments[7] else {
            panic!("a number of pixels")
        };
        assert_eq!([tiles, images], [1, 5]);
        assert!(parts > 1 && (parts - 1) * (part as usize) < 112 * 112);
        assert!(parts * part as usize >= 112 * 112);
    }

    #[test]
    fn a_maximum_of_too_many_pixels_has_no_way_back() {
        let pool = Pool::max(17);
        let pooling = Pooling {
            fields: &Fields::Pool(&pool),
            images: 1,
            from: shape(8, 17, 17),
            to: shape(8, 1, 1),
        };
        let spans = [2 * 8 * 289, 16, 2 * 8 * 289];
        launches(Element::F16, spans, |draft, [x, dy, dx]| {
            assert!(pooling.backward(draft, [x, dy, dx], Onto::Write).is_err());
            Ok(())
        });
    }
}
