//! How BatchNorm's kernels go over values.

use crate::cuda::Target;

/// Threads of a block.
pub(super) const THREADS: usize = 512;
/// Values of a slice, at most, where channels fill vectors.
const SLICE: usize = 64;
/// Vectors of a row of pixels side by side, at most.
const LANES: usize = 64;
/// Rows of a thread: there is no use in parts with fewer.
const LEAST: usize = 4;
/// Bytes that a thread reads at once.
const VECTOR: usize = 16;
/// Blocks of a cluster, and vectors of a slice for one.
const CLUSTERS: [usize; 4] = [1, 2, 4, 8];
const NARROW: [usize; 3] = [8, 4, 2];
/// Bytes of an array's part up to which a block that holds it is faster than two launches, and by how much such a part may be
/// larger than if all processors shared the array.
const MOST: usize = 64 << 10;
const EXCESS: usize = 32 << 10;

/// Parts of the pixels by slices of the channels, a block each; see the head of `train_norm.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Values of a vector.
    pub(super) vector: usize,
    pub(super) rows: usize,
    pub(super) channels: usize,
    /// Values of a row.
    pub(super) width: usize,
    /// Vectors of a slice, and how many of these there are.
    pub(super) lanes: usize,
    pub(super) slices: usize,
    /// Rows of a part, and how many of these there are; a cluster's blocks need not all have some.
    pub(super) per: usize,
    pub(super) parts: usize,
    /// Bytes that a block holds from its first pass to its second, or none.
    pub(super) held: usize,
}

impl Tiles {
    /// Two launches, in whose parts nothing is held.
    pub(super) fn new(target: Target, [pixels, channels]: [usize; 2]) -> Self {
        let wide = VECTOR / target.element.size();
        // Pixels side by side that fill vectors.
        let copies = wide / divisor(wide, channels);
        let fits =
            copies == 1 || pixels.is_multiple_of(copies) && channels * copies <= LANES * wide;
        let (vector, copies) = if fits { (wide, copies) } else { (1, 1) };
        let (rows, width) = (pixels / copies, channels * copies);
        let vectors = width / vector;
        // No channel is in two slices.
        let slices = if copies > 1 { 1 } else { width.div_ceil(SLICE) };
        let mut lanes = vectors.div_ceil(slices);
        if slices > 1 && vector > 1 {
            // Whole sectors of 32 bytes.
            lanes = lanes.next_multiple_of(2);
        }
        let slices = vectors.div_ceil(lanes);
        let most = rows.div_ceil(THREADS / lanes * LEAST).max(1);
        let per = rows
            .div_ceil((target.processors / slices).clamp(1, most))
            .max(1);
        Self {
            vector,
            rows,
            channels,
            width,
            lanes,
            slices,
            per,
            parts: rows.div_ceil(per),
            held: 0,
        }
    }

    /// One launch, if it can be had: in its parts so many arrays are held.
    pub(super) fn whole(
        target: Target,
        [pixels, channels]: [usize; 2],
        arrays: usize,
    ) -> Option<Self> {
        let vector = VECTOR / target.element.size();
        if target.capability != (9, 0) || !channels.is_multiple_of(vector) {
            return None;
        }
        let vectors = channels / vector;
        let tiles = |lanes: usize, parts: usize| {
            let lanes = lanes.min(vectors);
            let (slices, per) = (vectors.div_ceil(lanes), pixels.div_ceil(parts));
            let stride = THREADS / lanes;
            Self {
                vector,
                rows: pixels,
                channels,
                width: channels,
                lanes,
                slices,
                per,
                parts,
                held: arrays * VECTOR * lanes * per.next_multiple_of(stride),
            }
        };
        let share = VECTOR * vectors * pixels / target.processors;
        let fits = |tiles: &Self| {
            // Clusters lie within parts of the card whose processors are no multiple of four.
            let room = match tiles.parts {
                1 | 2 => target.processors,
                _ => target.processors * 9 / 10,
            };
            tiles.slices * tiles.parts <= room
                && VECTOR * tiles.lanes * tiles.per <= MOST.min(share + EXCESS)
        };
        // The smallest parts, if there is enough for all threads; of such the widest slices, and then the fewest blocks.
        let all = NARROW
            .into_iter()
            .flat_map(|lanes| CLUSTERS.map(|parts| tiles(lanes, parts)));
        all.filter(fits)
            .min_by_key(|tiles| (tiles.lanes * tiles.per).max(2 * THREADS))
    }

    /// Bytes of two sums of each channel and part.
    pub(super) fn partials(&self) -> usize {
        self.parts * 2 * self.channels * size_of::<f32>()
    }
}

/// The greatest number that divides both.
fn divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Element;

    const CHANNELS: [usize; 14] = [
        1, 3, 8, 24, 58, 64, 72, 122, 130, 232, 276, 1000, 2208, 4096,
    ];
    const PIXELS: [usize; 8] = [1, 2, 31, 32, 1568, 6272, 25_088, 401_408];

    #[test]
    fn slices_and_parts_cover_all_values() {
        for element in [Element::F16, Element::F32] {
            for sizes in CHANNELS.iter().flat_map(|c| PIXELS.map(|p| [p, *c])) {
                let target = Target::hopper(element);
                let two = Tiles::new(target, sizes);
                assert!((two.parts - 1) * two.per < two.rows, "{two:?}");
                let wholes = [1, 2].map(|arrays| Tiles::whole(target, sizes, arrays));
                for tiles in [Some(two)].into_iter().chain(wholes).flatten() {
                    let what = format!("{sizes:?}: {tiles:?}");
                    let [pixels, channels] = sizes;
                    assert_eq!(tiles.rows * tiles.width, pixels * channels, "{what}");
                    assert!(
                        [1, VECTOR / element.size()].contains(&tiles.vector),
                        "{what}"
                    );
                    assert!(tiles.width.is_multiple_of(tiles.vector), "{what}");
                    assert!(tiles.width.is_multiple_of(channels), "{what}");
                    let slice = tiles.lanes * tiles.vector;
                    assert!((1..=LANES).contains(&tiles.lanes), "{what}");
                    assert!(tiles.slices * slice >= tiles.width, "{what}");
                    assert!((tiles.slices - 1) * slice < tiles.width, "{what}");
                    // No more channels than a block has room for, nor one of them twice beside another slice.
                    assert!(slice.min(channels) <= 256, "{what}");
                    assert!(tiles.width == channels || tiles.slices == 1, "{what}");
                    assert!(tiles.parts * tiles.per >= tiles.rows, "{what}");
                }
            }
        }
    }

    #[test]
    fn what_a_block_holds_has_room() {
        for sizes in CHANNELS.iter().flat_map(|c| PIXELS.map(|p| [p, *c])) {
            for arrays in [1, 2] {
                let target = Target::hopper(Element::F16);
                let Some(tiles) = Tiles::whole(target, sizes, arrays) else {
                    continue;
                };
                let rows = tiles.per.div_ceil(THREADS / tiles.lanes);
                let values = rows * (THREADS / tiles.lanes) * tiles.lanes;
                assert_eq!(tiles.held, arrays * VECTOR * values, "{sizes:?}: {tiles:?}");
                assert!(tiles.held <= 160 << 10, "{sizes:?}: {tiles:?}");
                assert!(CLUSTERS.contains(&tiles.parts), "{sizes:?}: {tiles:?}");
            }
        }
        assert_eq!(
            Tiles::whole(Target::ampere(Element::F16), [98, 64], 1),
            None
        );
    }

    #[test]
    fn both_extremes_fill_a_card() {
        let target = Target::hopper(Element::F16);
        for (sizes, blocks) in [
            ([401_408, 64], 132),
            ([401_408, 58], 132),
            ([6272, 1056], 119),
        ] {
            let tiles = Tiles::new(target, sizes);
            assert_eq!(
                (tiles.vector, tiles.parts * tiles.slices),
                (8, blocks),
                "{sizes:?}"
            );
        }
        let blocks = |sizes, arrays| {
            let tiles = Tiles::whole(target, sizes, arrays);
            tiles.map(|tiles| [tiles.lanes, tiles.slices, tiles.parts])
        };
        assert_eq!(blocks([1568, 2048], 1), Some([4, 64, 2]));
        assert_eq!(blocks([1568, 512], 2), Some([8, 8, 8]));
        assert_eq!(blocks([6272, 1024], 2), None);
        assert_eq!(blocks([401_408, 64], 1), None);
    }
}
