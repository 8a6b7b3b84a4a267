//! A batch of token sequences laid end to end, so that no device works on padding.

use std::sync::Arc;

use candle_core::{Result, bail};

/// Token sequences, end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    ids: Vec<u32>,
    offsets: Arc<[usize]>,
}

impl Packed {
    /// Packs sequences of token ids.
    pub fn new<S>(sequences: impl IntoIterator<Item = S>) -> Self
    where
        S: IntoIterator<Item = u32>,
    {
        let mut ids = Vec::new();
        let mut offsets = vec![0];
        for sequence in sequences {
            ids.extend(sequence);
            offsets.push(ids.len());
        }
        Self {
            ids,
            offsets: offsets.into(),
        }
    }

    /// Packs the rows of a padded batch: `ids` and `mask` are `[rows][columns]`, and a token takes part where its mask
    /// is not 0. Positions count the tokens that take part, which is what a model sees when padding is at the end.
    ///
    /// # Errors
    /// A row's mask has another length than its ids, or hides a token before one that it shows.
    pub fn from_padded(ids: &[Vec<u32>], mask: &[Vec<u32>]) -> Result<Self> {
        if ids.len() != mask.len() {
            bail!("expected a mask of {} rows, got {}", ids.len(), mask.len())
        }
        let mut sequences = Vec::with_capacity(ids.len());
        for (ids, mask) in ids.iter().zip(mask) {
            let shown = mask.iter().take_while(|&&shown| shown != 0).count();
            if ids.len() != mask.len() || mask[shown..].iter().any(|&shown| shown != 0) {
                bail!("expected a mask as long as its ids, of ones and then zeros")
            }
            sequences.push(ids[..shown].iter().copied());
        }
        Ok(Self::new(sequences))
    }

    /// The ids of all tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where each sequence starts, and at the end the number of tokens: one more than there are sequences.
    pub fn offsets(&self) -> &Arc<[usize]> {
        &self.offsets
    }

    /// How many tokens each sequence has.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.offsets.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Refuses what tables of so many words and positions do not have.
    ///
    /// # Errors
    /// An id is outside the vocabulary, or a sequence is longer than there are positions.
    pub(crate) fn check(&self, vocabulary: usize, positions: usize) -> Result<()> {
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("embed: expected ids below {vocabulary}, got {id}")
        }
        let longest = self.lengths().max().unwrap_or(0);
        if longest > positions {
            bail!("embed: expected at most {positions} tokens in a sequence, got {longest}")
        }
        Ok(())
    }

    /// Each token's place in its own sequence.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        self.lengths().flat_map(|length| 0..length as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_at_the_end_is_left_out() {
        let packed = Packed::from_padded(
            &[vec![5, 6, 0], vec![7, 0, 0]],
            &[vec![1, 1, 0], vec![1, 0, 0]],
        )
        .unwrap();
        assert_eq!(packed.ids(), [5, 6, 7]);
        assert_eq!(packed.offsets()[..], [0, 2, 3]);
        assert_eq!(packed.positions().collect::<Vec<_>>(), [0, 1, 0]);
        assert!(Packed::from_padded(&[vec![5, 6]], &[vec![0, 1]]).is_err());
        assert!(Packed::from_padded(&[vec![5, 6]], &[vec![1]]).is_err());
    }
}
