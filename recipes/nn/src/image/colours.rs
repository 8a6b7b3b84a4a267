//! What the bytes of a decoded image mean to a network.

/// What is taken off a byte, and what it is then divided by: each of red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colours {
    /// In units of a byte, 0 to 255.
    pub mean: [f64; 3],
    /// In units of a byte.
    pub deviation: [f64; 3],
}

impl Colours {
    /// What each of the 256 values of each colour becomes.
    pub(crate) fn table(&self) -> Table {
        let of =
            |colour: usize, byte: usize| (byte as f64 - self.mean[colour]) / self.deviation[colour];
        Table(std::array::from_fn(|colour| {
            std::array::from_fn(|byte| of(colour, byte) as f32)
        }))
    }

    /// The same as `byte * scale + shift`: scales and shifts.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn scale_and_shift(&self) -> [[f32; 3]; 2] {
        let scale = self.deviation.map(|deviation| 1.0 / deviation);
        let shift: [f64; 3] = std::array::from_fn(|i| -self.mean[i] * scale[i]);
        [scale, shift].map(|values| values.map(|value| value as f32))
    }
}

/// For each colour, what its bytes become.
#[derive(Debug)]
pub(crate) struct Table([[f32; 256]; 3]);

impl Table {
    /// `[pixels, 3]` -> `[pixels, 3]`.
    pub(crate) fn apply(&self, bytes: &[u8], values: &mut [f32]) {
        let [red, green, blue] = &self.0;
        for (pixel, values) in bytes.chunks_exact(3).zip(values.chunks_exact_mut(3)) {
            values[0] = red[usize::from(pixel[0])];
            values[1] = green[usize::from(pixel[1])];
            values[2] = blue[usize::from(pixel[2])];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_means_the_same_by_the_table_and_by_a_scale_and_a_shift() {
        let colours = Colours {
            mean: [123.675, 116.28, 103.53],
            deviation: [58.395, 57.12, 57.375],
        };
        let (table, [scale, shift]) = (colours.table(), colours.scale_and_shift());
        for byte in 0..=255 {
            let mut values = [f32::NAN; 3];
            table.apply(&[byte; 3], &mut values);
            for (i, value) in values.into_iter().enumerate() {
                let expected = (f64::from(byte) - colours.mean[i]) / colours.deviation[i];
                assert!((f64::from(value) - expected).abs() < 1e-6);
                let fused = f32::from(byte).mul_add(scale[i], shift[i]);
                assert!((fused - value).abs() < 1e-6, "{byte}: {fused} and {value}");
            }
        }
    }
}
