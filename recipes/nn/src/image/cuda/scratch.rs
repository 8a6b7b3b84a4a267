//! The memory of a pass, shared out while its program is made.

use std::ops::Range;

use crate::cuda::{Layout, Place, Span};

/// Bytes of which every span is a whole number.
const UNIT: usize = 256;

/// Memory that is handed out and taken back. Launches run in the order in which they are made, so what the last reader of
/// a span has been planned for is free for what is planned next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// What has been given back, in order; neighbours are one.
    free: Vec<Range<usize>>,
    end: usize,
}

impl Scratch {
    /// So many bytes of any content: the smallest free piece that has room, or more memory.
    pub(super) fn take(&mut self, bytes: usize) -> Span {
        let size = bytes.next_multiple_of(UNIT).max(UNIT);
        let fits = |(_, piece): &(usize, &Range<usize>)| piece.len() >= size;
        let best = (self.free.iter().enumerate().filter(fits)).min_by_key(|(_, piece)| piece.len());
        let start = match best.map(|(index, _)| index) {
            Some(index) => {
                let piece = &mut self.free[index];
                let start = piece.start;
                piece.start += size;
                if piece.start == piece.end {
                    self.free.remove(index);
                }
                start
            }
            None => {
                // What is free at the end is only too short.
                let last = self.free.pop_if(|last| last.end == self.end);
                let start = last.map_or(self.end, |last| last.start);
                self.end = start + size;
                start
            }
        };
        Span {
            place: Place::Pass(start),
            bytes,
        }
    }

    /// Takes back what [`Self::take`] gave.
    ///
    /// # Panics
    /// It is somebody else's, or was given back before.
    pub(super) fn give_back(&mut self, span: Span) {
        let Place::Pass(start) = span.place else {
            panic!("expected a span of the pass's memory, got {span:?}")
        };
        let mut piece = start..start + span.bytes.next_multiple_of(UNIT).max(UNIT);
        let at = self.free.partition_point(|free| free.start < start);
        let before = at.checked_sub(1).map_or(0, |before| self.free[before].end);
        let after = self.free.get(at).map_or(self.end, |after| after.start);
        assert!(
            before <= piece.start && piece.end <= after,
            "given back twice"
        );
        let mut neighbours = at..at;
        if at > 0 && before == piece.start {
            neighbours.start -= 1;
            piece.start = self.free[at - 1].start;
        }
        if at < self.free.len() && after == piece.end {
            neighbours.end += 1;
            piece.end = self.free[at].end;
        }
        self.free.splice(neighbours, [piece]);
    }

    /// All memory that was ever in use.
    pub(super) fn layout(&self) -> Layout {
        let mut layout = Layout::default();
        layout.place(self.end);
        layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_back_is_used_again() {
        let mut scratch = Scratch::default();
        let [a, b, c] = [1000, 300, 256].map(|bytes| scratch.take(bytes));
        assert_eq!(scratch.layout().bytes(), 1024 + 512 + 256);
        scratch.give_back(a);
        scratch.give_back(c);
        assert_eq!(scratch.take(200).place, c.place, "the smallest with room");
        assert_eq!(scratch.take(600).place, a.place);
        scratch.give_back(b);
        // 256 bytes were left of `a`, and `b` follows them.
        assert_eq!(scratch.take(700).place, Place::Pass(768));
        assert_eq!(scratch.layout().bytes(), 1024 + 512 + 256);
    }

    #[test]
    fn what_is_free_at_the_end_grows() {
        let mut scratch = Scratch::default();
        let [first, last] = [256, 256].map(|bytes| scratch.take(bytes));
        scratch.give_back(last);
        assert_eq!(scratch.take(1024).place, last.place);
        assert_eq!(scratch.layout().bytes(), 256 + 1024);
        scratch.give_back(first);
    }

    #[test]
    fn spans_in_use_never_overlap() {
        let mut scratch = Scratch::default();
        let mut held: Vec<Span> = Vec::new();
        let mut state = 1u32;
        for _ in 0..2000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (state >> 8) as usize;
            if number.is_multiple_of(2) && !held.is_empty() {
                scratch.give_back(held.swap_remove(number / 2 % held.len()));
            } else {
                held.push(scratch.take(number / 2 % 5000));
            }
            let mut bounds: Vec<_> = (held.iter())
                .map(|span| {
                    let Place::Pass(start) = span.place else {
                        panic!("{span:?}")
                    };
                    (start, start + span.bytes)
                })
                .collect();
            bounds.sort_unstable();
            assert!(bounds.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            assert!(
                bounds
                    .iter()
                    .all(|(_, end)| *end <= scratch.layout().bytes())
            );
        }
        for span in held.drain(..) {
            scratch.give_back(span);
        }
        assert_eq!(scratch.take(scratch.layout().bytes()).place, Place::Pass(0));
    }

    #[test]
    #[should_panic = "given back twice"]
    fn nothing_is_given_back_twice() {
        let mut scratch = Scratch::default();
        let [span, _other] = [256, 256].map(|bytes| scratch.take(bytes));
        scratch.give_back(span);
        scratch.give_back(span);
    }
}
