//! How the queries of a batch are shared out over blocks of threads, as the attention kernels read it.

use crate::text::Packed;

/// Four numbers for the kernel; `attention.cu` says what they mean.
pub(super) type Tile = [i32; 4];

/// Queries of a tile.
const QUERIES: usize = 64;
/// Short sequences share a tile in blocks of so many rows.
const BLOCK: usize = 16;
const BLOCKS: usize = QUERIES / BLOCK;

/// A tile for every 64 queries of a sequence, the longest sequences first.
pub(super) fn plain(batch: &Packed) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for (first, length) in sequences(batch) {
        long(first, length, &mut tiles);
    }
    tiles.sort_by_key(|tile| std::cmp::Reverse(tile[1]));
    tiles
}

/// As [`plain`], but neighbouring short sequences share tiles.
pub(super) fn shared(batch: &Packed) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut open: Option<Shared> = None;
    for (first, length) in sequences(batch) {
        if length > QUERIES {
            tiles.extend(open.take().map(Shared::tile));
            long(first, length, &mut tiles);
            continue;
        }
        let fits = open.as_ref().is_some_and(|open| open.fits(length));
        if !fits {
            tiles.extend(open.take().map(Shared::tile));
        }
        open.get_or_insert_with(|| Shared::new(first))
            .add(first, length);
    }
    tiles.extend(open.map(Shared::tile));
    // A shared tile's first number is below 0; its work is that of a short sequence.
    tiles.sort_by_key(|tile| std::cmp::Reverse(if tile[0] < 0 { 0 } else { tile[1] }));
    tiles
}

/// The first row and the length of each sequence that has one.
fn sequences(batch: &Packed) -> impl Iterator<Item = (usize, usize)> {
    let bounds = batch.offsets().windows(2);
    bounds
        .map(|bounds| (bounds[0], bounds[1] - bounds[0]))
        .filter(|&(_, length)| length > 0)
}

fn long(first: usize, length: usize, tiles: &mut Vec<Tile>) {
    for query in (0..length).step_by(QUERIES) {
        let queries = QUERIES.min(length - query);
        tiles.push([first, length, query, queries].map(|number| number as i32));
    }
}

/// A tile of several short sequences.
struct Shared {
    first: usize,
    blocks: usize,
    /// For each block a byte, the first one lowest: tokens of its sequence, its first row in the tile, and the blocks of
    /// the same sequence before it.
    bytes: [u32; 3],
}

impl Shared {
    fn new(first: usize) -> Self {
        Self {
            first,
            blocks: 0,
            bytes: [0; 3],
        }
    }

    fn fits(&self, length: usize) -> bool {
        self.blocks + length.div_ceil(BLOCK) <= BLOCKS
    }

    fn add(&mut self, first: usize, length: usize) {
        for before in 0..length.div_ceil(BLOCK) {
            let row = first - self.first + before * BLOCK;
            for (bytes, byte) in self.bytes.iter_mut().zip([length, row, before]) {
                *bytes |= (byte as u32) << (8 * self.blocks);
            }
            self.blocks += 1;
        }
    }

    fn tile(self) -> Tile {
        let [tokens, rows, before] = self.bytes.map(u32::cast_signed);
        [!(self.first as i32), tokens, rows, before]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Packed {
        Packed::new(lengths.iter().map(|&length| vec![1; length]))
    }

    #[test]
    fn a_long_sequence_has_a_tile_for_every_64_queries() {
        let batch = batch(&[3, 0, 130]);
        let expected = [
            [3, 130, 0, 64],
            [3, 130, 64, 64],
            [3, 130, 128, 2],
            [0, 3, 0, 3],
        ];
        assert_eq!(plain(&batch), expected);
        assert_eq!(shared(&batch)[..3], expected[..3]);
    }

    #[test]
    fn short_sequences_share_a_tile_as_long_as_they_fit() {
        // Blocks of 1, 2 and 1; the fourth sequence has to begin a tile of its own.
        let tiles = shared(&batch(&[16, 17, 1, 20]));
        let bytes = |bytes: [u8; 4]| i32::from_le_bytes(bytes);
        assert_eq!(
            tiles,
            [
                [
                    !0,
                    bytes([16, 17, 17, 1]),
                    bytes([0, 16, 32, 33]),
                    bytes([0, 0, 1, 0]),
                ],
                [
                    !34,
                    bytes([20, 20, 0, 0]),
                    bytes([0, 16, 0, 0]),
                    bytes([0, 1, 0, 0]),
                ],
            ]
        );
    }
}
