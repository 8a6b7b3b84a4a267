//! A network's weights as they will lie in device memory, all in one piece.

use candle_core::{Result, Tensor};
use half::f16;

use super::{Element, Span, place::append};
use crate::host;

/// Weights before they are on the device.
#[derive(Debug)]
pub(crate) struct Weights {
    element: Element,
    bytes: Vec<u8>,
}

impl Weights {
    pub(crate) fn new(element: Element) -> Self {
        Self {
            element,
            bytes: Vec::new(),
        }
    }

    /// What [`Self::values`] become.
    pub(crate) fn element(&self) -> Element {
        self.element
    }

    /// Values, rounded to the network's element.
    pub(crate) fn values(&mut self, values: &[f32]) -> Span {
        match self.element {
            Element::F32 => self.floats(values),
            Element::F16 => self.halves(values),
        }
    }

    /// Values of f32, whatever the element: biases.
    pub(crate) fn floats(&mut self, values: &[f32]) -> Span {
        self.raw(values.iter().map(|value| value.to_le_bytes()))
    }

    /// Values of f16, whatever the element.
    pub(crate) fn halves(&mut self, values: &[f32]) -> Span {
        self.raw((values.iter()).map(|&value| f16::from_f32(value).to_le_bytes()))
    }

    /// A tensor's values, as [`Self::values`].
    ///
    /// # Errors
    /// They cannot be had on the host.
    pub(crate) fn tensor(&mut self, tensor: &Tensor) -> Result<Span> {
        Ok(self.values(&host::to_vec(tensor)?))
    }

    /// A tensor's values, as [`Self::floats`].
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub(crate) fn float_tensor(&mut self, tensor: &Tensor) -> Result<Span> {
        Ok(self.floats(&host::to_vec(tensor)?))
    }

    /// Anything else, in words of `N` bytes.
    pub(crate) fn raw<const N: usize>(
        &mut self,
        words: impl ExactSizeIterator<Item = [u8; N]>,
    ) -> Span {
        let bytes: Vec<u8> = words.flatten().collect();
        append(&mut self.bytes, bytes.into_iter())
    }

    /// All of it, as a copy takes it to the device.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::Place;

    #[test]
    fn weights_lie_aligned_in_their_element_and_biases_in_f32() {
        let mut weights = Weights::new(Element::F16);
        let matrix = weights.values(&[1.0, -2.0, 0.1]);
        let bias = weights.floats(&[3.0]);
        assert_eq!((matrix.place, matrix.bytes), (Place::Weights(0), 6));
        assert_eq!((bias.place, bias.bytes), (Place::Weights(256), 4));
        let halves = [1.0, -2.0, 0.1].map(|x| f16::from_f32(x).to_le_bytes());
        assert_eq!(weights.bytes()[..6], *halves.as_flattened());
        assert_eq!(weights.bytes()[256..], 3f32.to_le_bytes());
        assert_eq!(Weights::new(Element::F32).values(&[1.0, 2.0]).bytes, 8);
    }
}
