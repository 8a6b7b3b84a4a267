//! Texts longer than a model takes: overlapping windows, and which window answers for which token.
//!
//! The windows are of one size (to within a token) and evenly spread, so that the last is no stub without context.
//! Where two overlap, each answers for its half of what they share: there every token is read in the window in which
//! it stands farther from the edge.

use std::ops::Range;

/// One window on a text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens that the model reads together.
    pub tokens: Range<usize>,
    /// Those among them that this window answers for. Over all windows these are every token once, in order.
    pub answers: Range<usize>,
}

/// Windows of at most `capacity` tokens over a text of `tokens`, neighbours sharing at least `overlap`; one window,
/// which may be empty, if all fits.
///
/// # Panics
/// `overlap` is not less than `capacity`.
pub fn windows(tokens: usize, capacity: usize, overlap: usize) -> Vec<Window> {
    assert!(overlap < capacity, "windows move forward");
    if tokens <= capacity {
        return vec![Window {
            tokens: 0..tokens,
            answers: 0..tokens,
        }];
    }
    let count = (tokens - overlap).div_ceil(capacity - overlap);
    let size = (tokens + (count - 1) * overlap).div_ceil(count);
    let spans: Vec<_> = (0..count)
        .map(|i| {
            let start = i * (tokens - size) / (count - 1);
            start..start + size
        })
        .collect();
    // Half-way through what neighbours share, and the text's own two ends.
    let middles = spans
        .windows(2)
        .map(|pair| (pair[1].start + pair[0].end) / 2);
    let bounds: Vec<_> = [0].into_iter().chain(middles).chain([tokens]).collect();
    spans
        .into_iter()
        .zip(bounds.windows(2))
        .map(|(tokens, bounds)| Window {
            tokens,
            answers: bounds[0]..bounds[1],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_one_window() {
        for tokens in [0, 1, 510] {
            let all = windows(tokens, 510, 128);
            assert_eq!(all.len(), 1);
            assert_eq!(
                (&all[0].tokens, &all[0].answers),
                (&(0..tokens), &(0..tokens))
            );
        }
    }

    #[test]
    fn every_token_is_answered_once_and_has_context() {
        for (capacity, overlap) in [(510, 128), (8, 3), (8, 0), (2, 1)] {
            for tokens in capacity + 1..capacity * 6 {
                let all = windows(tokens, capacity, overlap);
                let mut next = 0;
                for window in &all {
                    assert!(window.tokens.len() <= capacity);
                    assert_eq!(window.answers.start, next);
                    next = window.answers.end;
                    let before = window.answers.start - window.tokens.start;
                    let after = window.tokens.end - window.answers.end;
                    assert!(
                        window.tokens.start == 0 || before >= overlap / 2,
                        "{window:?}"
                    );
                    assert!(
                        window.tokens.end == tokens || after >= overlap / 2,
                        "{window:?}"
                    );
                }
                assert_eq!(next, tokens);
            }
        }
    }
}
