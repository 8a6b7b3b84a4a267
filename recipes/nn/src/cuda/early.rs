//! Which kernels set themselves up while the one before them ends.

/// Whether blocks that come early spread over the card all the same: they find room where the kernel before has ended first, and
/// those multiprocessors take as many as they hold, while others go without once they are free too. That does no harm where there
/// are blocks for all room there is, or where neither kernel has more blocks than there are multiprocessors.
pub(super) fn spreads(before: usize, blocks: usize, room: usize, processors: usize) -> bool {
    blocks >= room || before.max(blocks) <= processors
}

#[cfg(test)]
mod tests {
    use super::spreads;

    #[test]
    fn blocks_come_early_where_they_spread_all_the_same() {
        // Of a card of 132 multiprocessors that each hold two.
        let spread = |before, blocks| spreads(before, blocks, 264, 132);
        assert!(spread(132, 132) && spread(10_000, 264) && spread(1, 10_000));
        assert!(!spread(133, 1) && !spread(10_000, 1) && !spread(132, 263));
    }
}
