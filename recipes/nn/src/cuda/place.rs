//! Places in device memory, before anything is allocated.

/// Bytes that kernels may read 16 at a time, and copies like whole lines of.
const ALIGNMENT: usize = 256;

/// A place in one of the two pieces of memory that a pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// So many bytes into the network's weights.
    Weights(usize),
    /// So many bytes into the memory that the pass computes in.
    Pass(usize),
}

impl Place {
    /// So many bytes further on.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        match self {
            Self::Weights(at) => Self::Weights(at + bytes),
            Self::Pass(at) => Self::Pass(at + bytes),
        }
    }

    /// Whether 16 bytes can be read from there at a time; memory itself is aligned so.
    pub(crate) fn is_aligned(self) -> bool {
        let (Self::Weights(at) | Self::Pass(at)) = self;
        at.is_multiple_of(16)
    }
}

/// A place and its size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) place: Place,
    pub(crate) bytes: usize,
}

impl Span {
    /// The first bytes of it.
    ///
    /// # Panics
    /// There are fewer.
    pub(crate) fn first(self, bytes: usize) -> Self {
        self.part(0, bytes)
    }

    /// How many bytes after its start another begins.
    ///
    /// # Panics
    /// It begins before, or in other memory.
    pub(crate) fn distance(self, later: Self) -> usize {
        match (self.place, later.place) {
            (Place::Weights(start), Place::Weights(later))
            | (Place::Pass(start), Place::Pass(later)) => later - start,
            places => panic!("expected places in the same memory, got {places:?}"),
        }
    }

    /// So many bytes of it, from a place within it on.
    ///
    /// # Panics
    /// It ends before.
    pub(crate) fn part(self, start: usize, bytes: usize) -> Self {
        assert!(start + bytes <= self.bytes, "beyond the span");
        Self {
            place: self.place.offset(start),
            bytes,
        }
    }
}

/// What a pass keeps where, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    bytes: usize,
}

impl Layout {
    /// The next free place for so many bytes.
    pub(crate) fn place(&mut self, bytes: usize) -> Span {
        let place = Place::Pass(self.bytes);
        self.bytes += bytes.next_multiple_of(ALIGNMENT);
        Span { place, bytes }
    }

    /// All of them.
    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    /// From here to what is placed next, as one span: what a single copy fills.
    pub(crate) fn since(self, start: Self) -> Span {
        Span {
            place: Place::Pass(start.bytes),
            bytes: self.bytes - start.bytes,
        }
    }
}

/// Appends `more` to `bytes` at the next place that is aligned as [`Layout::place`] aligns; gives where.
pub(super) fn append(bytes: &mut Vec<u8>, more: impl ExactSizeIterator<Item = u8>) -> Span {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let span = Span {
        place: Place::Weights(bytes.len()),
        bytes: more.len(),
    };
    bytes.extend(more);
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_aligned_and_apart() {
        let mut layout = Layout::default();
        let empty = layout.place(0);
        let one = layout.place(1);
        let start = layout;
        let two = layout.place(257);
        let three = layout.place(8);
        assert_eq!(empty.place, Place::Pass(0));
        assert_eq!(one.place, Place::Pass(0));
        assert_eq!(two.place, Place::Pass(256));
        assert_eq!(three.place, Place::Pass(768));
        assert_eq!(layout.bytes(), 1024);
        let both = layout.since(start);
        assert_eq!((both.place, both.bytes), (Place::Pass(256), 768));
        assert_eq!(both.part(512, 8), three);
        assert_eq!(both.distance(three), 512);
    }
}
