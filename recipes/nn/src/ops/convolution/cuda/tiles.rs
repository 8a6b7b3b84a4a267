//! Which tile of `conv_sm90.cu` a layer is computed by.

use crate::cuda::Grid;

/// A tile, and how its sums are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// Pixels and filters.
    pub(super) size: [usize; 2],
    /// Blocks that share the sums of a tile.
    pub(super) split: usize,
    /// What of the input is scaled first.
    scaled: bool,
    /// Steps whose operands are there at once.
    pub(super) stages: usize,
}

/// The kernels that there are, each with what a step takes in ns where a block has its multiprocessor for itself, and where
/// two share it. Of an H200, in the median over the layers of ResNet-50 and VGG.
const PLAIN: [([usize; 2], usize, [u64; 2]); 11] = [
    ([128, 128], 1, [450, 900]),
    ([128, 64], 1, [300, 660]),
    ([64, 128], 1, [280, 600]),
    ([64, 64], 1, [220, 410]),
    ([128, 128], 2, [450, 900]),
    ([128, 128], 4, [450, 900]),
    ([64, 128], 2, [280, 600]),
    ([64, 128], 4, [280, 600]),
    ([64, 64], 2, [220, 410]),
    ([64, 64], 4, [220, 410]),
    ([64, 64], 8, [220, 410]),
];
const SCALED: [([usize; 2], usize, [u64; 2]); 5] = [
    ([64, 128], 1, [320, 650]),
    ([64, 64], 1, [250, 450]),
    ([64, 64], 2, [250, 450]),
    ([64, 64], 4, [250, 450]),
    ([64, 64], 8, [250, 450]),
];
/// What a launch takes beside its steps, in ns.
const LAUNCH: u64 = 3000;
/// What adding up shares takes: where all blocks run at once, and more for each turn after the first.
const SHARES: u64 = 1200;
const SHARES_AGAIN: u64 = 5000;
/// Shared memory of a block where two are to fit, less what is not for operands.
const SHARED: usize = 113 * 1024 - OVERHEAD;
const OVERHEAD: usize = 1280;

impl Tile {
    /// Of a layer of so many pixels, filters and steps, the one that is expected to take least.
    pub(super) fn of(
        [pixels, filters, steps]: [usize; 3],
        (grouped, scaled): (bool, bool),
        processors: usize,
    ) -> Self {
        let known: &[_] = if scaled { &SCALED } else { &PLAIN };
        let time = |(size, split, [alone, both]): &([usize; 2], usize, [u64; 2])| {
            let blocks = pixels.div_ceil(size[0]) * filters.div_ceil(size[1]) * split;
            let step = if blocks > processors { *both } else { *alone };
            let turns = blocks.div_ceil(2 * processors) as u64;
            let shares = match split {
                1 => 0,
                _ => SHARES + (turns - 1) * SHARES_AGAIN,
            };
            LAUNCH + shares + turns * steps.div_ceil(*split) as u64 * step
        };
        let fits = |(size, split, _): &&([usize; 2], usize, [u64; 2])| {
            *split <= steps && (!grouped || size[1] == 64)
        };
        let best = known.iter().filter(fits).min_by_key(|tile| time(tile));
        let (size, split, _) = best.copied().unwrap_or(([64, 64], 1, [0; 2]));
        let [rows, columns] = size;
        let most = SHARED / ((rows + columns) * 128);
        // With few steps more blocks fit beside each other.
        let stages = match split {
            1 => most.min(steps + 1 + columns / 64).max(columns / 64),
            _ => most,
        };
        Self {
            size,
            split,
            scaled,
            stages,
        }
    }

    pub(super) fn kernel(&self) -> String {
        let Self {
            size: [rows, columns],
            split,
            scaled,
            ..
        } = *self;
        let scaled = if scaled { "scaled_" } else { "" };
        let split = if split > 1 {
            format!("_s{split}")
        } else {
            String::new()
        };
        format!("conv_f16_sm90_{scaled}{rows}x{columns}{split}")
    }

    pub(super) fn grid(&self, [pixels, filters]: [usize; 2]) -> Grid {
        let [rows, columns] = self.size;
        Grid {
            blocks: [
                pixels.div_ceil(rows) * filters.div_ceil(columns) * self.split,
                1,
                1,
            ],
            threads: 2 * rows as u32 + 32,
            shared: (self.stages * (rows + columns) * 128 + OVERHEAD) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Layers `[pixels, filters, steps]` of ResNet-50 with what was within a fifth of the fastest on an H200.
    #[test]
    fn the_tile_is_one_that_was_fast() {
        for (layer, fast) in [
            ([100_352, 64, 9], &["128x64"][..]),
            ([100_352, 256, 1], &["128x128", "128x64"]),
            ([25_088, 128, 18], &["128x128"]),
            (
                [6272, 256, 36],
                &["64x128", "128x64", "128x128", "128x128_s2"],
            ),
            ([6272, 1024, 4], &["128x64", "128x128"]),
            ([1568, 512, 72], &["128x128_s4", "128x128_s2", "64x128_s2"]),
            ([1568, 2048, 8], &["128x128"]),
            ([3136, 64, 9], &["64x64_s4", "64x64_s2", "64x64"]),
            ([196, 256, 36], &["64x64_s4", "64x64_s8"]),
            ([49, 512, 72], &["64x64_s8"]),
            ([784, 512, 2], &["64x64"]),
        ] {
            let kernel = Tile::of(layer, (false, false), 132).kernel();
            let tile = kernel.trim_start_matches("conv_f16_sm90_");
            assert!(fast.contains(&tile), "{layer:?}: {tile}");
        }
    }

    #[test]
    fn blocks_have_room_for_what_they_keep() {
        for pixels in [1, 49, 1000, 100_000] {
            for filters in [8, 64, 96, 2048] {
                for steps in [1, 2, 9, 200] {
                    for kind in [(false, false), (true, false), (false, true)] {
                        let tile = Tile::of([pixels, filters, steps], kind, 132);
                        let [rows, columns] = tile.size;
                        assert!(tile.grid([pixels, filters]).shared <= 113 << 10);
                        assert!(tile.stages >= columns / 64 && tile.stages <= 16, "{tile:?}");
                        // Shares are f32.
                        let shares = rows * columns * 4;
                        assert!(tile.split == 1 || tile.stages * (rows + columns) * 128 >= shares);
                    }
                }
            }
        }
    }
}
