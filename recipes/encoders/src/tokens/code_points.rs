//! From places in bytes, as Rust counts, to places in Unicode code points, as Python and the answers count.

/// Converts places in one text. Ascending places cost one pass over the text in all.
#[derive(Debug)]
pub(crate) struct CodePoints<'a> {
    text: &'a str,
    /// The last place asked for, in bytes and in code points.
    last: (usize, usize),
}

impl<'a> CodePoints<'a> {
    /// Places in `text`.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, last: (0, 0) }
    }

    /// How many code points begin before the byte `place`.
    pub(crate) fn before(&mut self, place: usize) -> usize {
        let (byte, count) = if place >= self.last.0 {
            self.last
        } else {
            (0, 0)
        };
        let bytes = self.text.as_bytes();
        let between = &bytes[byte..place.min(bytes.len())];
        // Every byte but a continuation byte begins a code point.
        let more = between.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
        self.last = (byte + between.len(), count + more);
        self.last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_code_points_in_any_order() {
        let text = "aé漢👩‍👧e\u{301}z";
        let mut places = CodePoints::new(text);
        let bytes: Vec<_> = text.char_indices().map(|(byte, _)| byte).collect();
        for (expected, &byte) in bytes.iter().enumerate() {
            assert_eq!(places.before(byte), expected);
        }
        for (expected, &byte) in bytes.iter().enumerate().rev() {
            assert_eq!(places.before(byte), expected);
        }
        assert_eq!(places.before(text.len()), text.chars().count());
        assert_eq!(places.before(1000), text.chars().count());
    }
}
