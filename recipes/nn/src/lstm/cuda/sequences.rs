//! Sequences as the kernels read them, and how many of them a block of threads takes.

/// First row, length, place of the final states, and a number that nobody reads.
pub(super) type Sequence = [i32; 4];

/// Bytes of one.
pub(super) const SIZE: usize = size_of::<Sequence>();

/// One that is not there: recorded passes have a place for more sequences than a batch may bring.
pub(super) const NONE: Sequence = [0, 0, -1, 0];

/// Sequences of these lengths whose rows lie end to end, the longest first; the place is that among the lengths.
pub(super) fn sorted(lengths: &[usize]) -> Vec<Sequence> {
    // By counting: there are many words and few lengths of words.
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut starts = vec![0; longest + 1];
    for &length in lengths {
        starts[length] += 1;
    }
    let mut start = 0;
    for count in starts.iter_mut().rev() {
        start += std::mem::replace(count, start);
    }
    let mut sorted = vec![NONE; lengths.len()];
    let mut first = 0;
    for (place, &length) in lengths.iter().enumerate() {
        sorted[starts[length]] = [first as i32, length as i32, place as i32, 0];
        starts[length] += 1;
        first += length;
    }
    sorted
}

/// Sequences of a block: the fewest that leave each block a multiprocessor, for a step of few takes less time.
pub(super) fn group(count: usize, processors: usize) -> usize {
    [4, 8]
        .into_iter()
        .find(|group| super::layout::DIRECTIONS * count.div_ceil(*group) <= processors)
        .unwrap_or(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_comes_first_and_each_knows_its_rows_and_its_place() {
        let want = [
            [4, 5, 3, 0],
            [0, 3, 0, 0],
            [9, 3, 4, 0],
            [3, 1, 2, 0],
            [3, 0, 1, 0],
        ];
        assert_eq!(sorted(&[3, 0, 1, 5, 3]), want);
        assert!(sorted(&[]).is_empty());
        assert_eq!(sorted(&[0]), [[0, 0, 0, 0]]);
    }

    #[test]
    fn groups_are_as_small_as_the_card_has_room_for() {
        let cases = [
            (1, 4),
            (264, 4),
            (265, 8),
            (528, 8),
            (529, 16),
            (100_000, 16),
        ];
        for (count, want) in cases {
            assert_eq!(group(count, 132), want, "{count} sequences");
        }
    }
}
