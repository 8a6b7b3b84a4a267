//! Pictures that a device decodes itself: JPEG files as they came, and what is to become of their pixels.
//!
//! Whoever makes a [`Picture`] has read its headers and seen that it is whole, for a device's decoder may call a damaged file a
//! success. Its decoder need not give the host's pixels; the resizing of them is the host's to the bit.

/// What of a device decodes JPEG files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Engines made for it, beside what computes.
    Engines,
    /// What computes, with a thread of the host's: slower than the host's threads together, but for hundreds of files at once.
    Processors,
}

impl Unit {
    /// Its name, for a log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engines => "nvJPEG's engines",
            Self::Processors => "nvJPEG's kernels",
        }
    }
}

/// Output pixels of a tile's side, as `cuda/resize.cu` has it.
const TILE: usize = 32;
/// The most lines under a tile: what a block has shared memory for without asking.
const MOST_LINES: usize = (48 << 10) / (TILE * 3);

/// Along one axis, from a picture's pixels to those that are kept: weights of 22 bits of fraction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    taps: usize,
    outputs: usize,
    words: Vec<i32>,
}

impl Axis {
    /// Of each output pixel the first input pixel under it, and its weights.
    pub fn new(taps: &[(usize, &[i32])]) -> Self {
        let outputs = taps.len();
        let most = taps.iter().map(|(_, weights)| weights.len()).max();
        let most = most.unwrap_or(0);
        let mut words = vec![0; outputs * (1 + most)];
        for (i, (start, weights)) in taps.iter().enumerate() {
            words[i] = *start as i32;
            for (k, &weight) in weights.iter().enumerate() {
                words[outputs * (1 + k) + i] = weight;
            }
        }
        Self {
            taps: most,
            outputs,
            words,
        }
    }

    /// Input pixels under an output pixel, at most.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// For each output pixel the first input pixel under it, and then the weights `[taps, outputs]`, with zeros behind an output's
    /// last.
    pub fn words(&self) -> &[i32] {
        &self.words
    }

    fn starts(&self) -> &[i32] {
        &self.words[..self.outputs]
    }

    /// Whether outputs begin one after the other, and all of them within so many input pixels.
    fn fits(&self, size: usize) -> bool {
        let within = |start: &i32| (0..size as i64).contains(&i64::from(*start));
        self.starts().iter().all(within) && self.starts().is_sorted()
    }

    /// The most of `size` input pixels that are under a tile of output pixels.
    fn most_under_a_tile(&self, size: usize) -> usize {
        let under = |tile: &[i32]| match tile {
            [first, .., last] => (*last as usize + self.taps).min(size) - *first as usize,
            _ => self.taps,
        };
        self.starts().chunks(TILE).map(under).max().unwrap_or(0)
    }
}

/// How the pixels of a decoded picture become the square that a network sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    size: [usize; 2],
    first: usize,
    steps: [isize; 2],
    shown: [usize; 2],
    axes: [Axis; 2],
    lines: usize,
}

impl Resize {
    /// Of a picture that is first turned upside down, then mirrored, and then has its sides swapped.
    ///
    /// None where so many lines become one that a device has no room for them.
    ///
    /// # Panics
    /// The axes do not make a square, or are for a picture of another size.
    pub fn new(
        [width, height]: [usize; 2],
        [upside_down, mirrored, swapped]: [bool; 3],
        axes: [Axis; 2],
    ) -> Option<Self> {
        let (mut first, mut steps) = (0, [1, width as isize]);
        if upside_down {
            first += (height - 1) * width;
            steps[1] = -steps[1];
        }
        if mirrored {
            first += width - 1;
            steps[0] = -1;
        }
        let mut shown = [width, height];
        if swapped {
            steps.swap(0, 1);
            shown.swap(0, 1);
        }
        assert_eq!(axes[0].outputs, axes[1].outputs, "a square");
        assert!(
            axes[0].fits(shown[0]) && axes[1].fits(shown[1]),
            "axes of a picture of {shown:?} pixels"
        );
        let lines = axes[1].most_under_a_tile(shown[1]);
        (lines <= MOST_LINES).then_some(Self {
            size: [width, height],
            first,
            steps,
            shown,
            axes,
            lines,
        })
    }

    /// The picture's pixels as it is stored, across and down.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The same as it is shown.
    pub fn shown(&self) -> [usize; 2] {
        self.shown
    }

    /// The number of the pixel that is shown at the top left.
    pub fn first(&self) -> usize {
        self.first
    }

    /// How many pixels after one that comes which is shown right of it, and below.
    pub fn steps(&self) -> [isize; 2] {
        self.steps
    }

    /// Along the lines as they are shown, and across.
    pub fn axes(&self) -> &[Axis; 2] {
        &self.axes
    }

    /// Pixels a side of what it makes.
    pub fn side(&self) -> usize {
        self.axes[0].outputs
    }

    /// Bytes of the decoded picture.
    pub fn bytes(&self) -> usize {
        self.size[0] * self.size[1] * 3
    }

    /// The most lines that are under a tile of output pixels.
    pub fn lines(&self) -> usize {
        self.lines
    }
}

/// A JPEG file, baseline, of brightness alone or with colours, 8 bits, complete.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// From the begin of the picture to its end, and nothing else.
    pub file: &'a [u8],
    /// What is to become of its pixels.
    pub resize: &'a Resize,
}

/// What came of a batch with pictures in it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// `[images, classes]`: the decoded ones first, then the pictures.
    pub logits: Vec<f32>,
    /// The pictures that the device does not decode, whose logits mean nothing.
    pub refused: Vec<usize>,
}

impl Scored {
    /// Of a device that decodes no pictures: so many `classes` of each image, and all `pictures` refused.
    pub(crate) fn refusing(mut logits: Vec<f32>, pictures: usize, classes: usize) -> Self {
        logits.resize(logits.len() + pictures * classes, 0.0);
        Self {
            logits,
            refused: (0..pictures).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_lie_by_taps() {
        let axis = Axis::new(&[(0, &[1, 2]), (1, &[3]), (1, &[4, 5, 6])]);
        assert_eq!((axis.taps(), axis.outputs), (3, 3));
        assert_eq!(axis.words(), [0, 1, 1, 1, 3, 4, 2, 0, 5, 0, 0, 6]);
        assert_eq!(axis.most_under_a_tile(4), 4);
        assert_eq!(axis.most_under_a_tile(3), 3);
    }

    #[test]
    fn a_turned_picture_is_read_from_another_corner() {
        let axis = || Axis::new(&[(0, &[1 << 22]), (1, &[1 << 22])]);
        // Three across, two down, and what is shown of it: EXIF's 6 is upside down, then swapped.
        let resize = |turn| Resize::new([3, 2], turn, [axis(), axis()]).unwrap();
        assert_eq!(resize([false; 3]).first(), 0);
        let turned = resize([true, false, true]);
        assert_eq!((turned.first(), turned.steps()), (3, [-3, 1]));
        let mirrored = resize([true, true, false]);
        assert_eq!((mirrored.first(), mirrored.steps()), (5, [-1, -3]));
    }

    #[test]
    fn what_decodes_no_pictures_has_the_images_first_and_refuses_all_others() {
        let scored = Scored::refusing(vec![1.0, 2.0, 3.0, 4.0], 3, 2);
        assert_eq!(scored.logits[..4], [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(scored.logits.len(), (2 + 3) * 2);
        assert_eq!(scored.refused, [0, 1, 2]);
        assert_eq!(Scored::refusing(Vec::new(), 0, 2), Scored::default());
    }

    #[test]
    #[should_panic(expected = "axes of a picture")]
    fn axes_stay_within_their_picture() {
        let axis = |start| Axis::new(&[(start, &[1 << 22])]);
        let _ = Resize::new([3, 2], [false; 3], [axis(2), axis(2)]);
    }

    #[test]
    fn what_a_block_has_no_room_for_is_refused() {
        let weights = vec![1; MOST_LINES + 1];
        let axis = |taps: usize| Axis::new(&[(0, &weights[..taps])]);
        let size = [MOST_LINES + 1; 2];
        assert!(Resize::new(size, [false; 3], [axis(1), axis(MOST_LINES)]).is_some());
        assert!(Resize::new(size, [false; 3], [axis(1), axis(MOST_LINES + 1)]).is_none());
    }
}
