//! Convolutions that the vendor's library computes, where that is there.

use super::{Element, Span};
use crate::{
    graph::{Shape, Window},
    ops::Onto,
};

/// A convolution, or one of its gradients; sums in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Convolution {
    pub(crate) geometry: Geometry,
    /// Which of the three spans is computed of the other two.
    pub(crate) way: Way,
    /// `[images, height, width, channels]`, what is convolved, or its gradient.
    pub(crate) x: Span,
    /// `[outputs, kernel down, kernel across, channels / groups]`, or its gradient.
    pub(crate) weight: Span,
    /// `[images, height, width, outputs]`, what becomes of it, or the gradient of that.
    pub(crate) y: Span,
    /// Whether the result is written or added to what is there.
    pub(crate) onto: Onto,
}

/// What is convolved how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Geometry {
    /// Of everything.
    pub(crate) element: Element,
    pub(crate) images: usize,
    /// An image, and what becomes of it.
    pub(crate) from: Shape,
    pub(crate) to: Shape,
    pub(crate) window: Window,
    /// Parts of the channels that do not see each other.
    pub(crate) groups: usize,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    /// The convolution.
    Forward,
    /// The gradient of what is convolved.
    Input,
    /// The gradient of the filters.
    Weight,
}

#[cfg(test)]
impl Way {
    /// Of what belongs to `x`, `weight` and `y`: what belongs to the two that are read, and to the one that is computed.
    pub(crate) fn order<T>(self, [x, weight, y]: [T; 3]) -> [T; 3] {
        match self {
            Self::Forward => [x, weight, y],
            Self::Input => [weight, y, x],
            Self::Weight => [x, y, weight],
        }
    }
}

impl Geometry {
    /// Bytes of `x`, `weight` and `y`.
    pub(crate) fn bytes(&self) -> [usize; 3] {
        let [down, across] = self.window.kernel;
        let filter = down * across * self.from.channels / self.groups;
        let values = [
            self.images * self.from.values(),
            self.to.channels * filter,
            self.images * self.to.values(),
        ];
        values.map(|values| values * self.element.size())
    }
}

impl Convolution {
    /// That it is one, and that its values fill their spans.
    ///
    /// # Panics
    /// They do not, windows over the images do not give what becomes of them, or groups do not divide the channels.
    pub(crate) fn check(&self) {
        let Geometry {
            from,
            to,
            window,
            groups,
            ..
        } = self.geometry;
        let size = window.over([from.height, from.width], false);
        let divided = groups > 0 && from.channels % groups + to.channels % groups == 0;
        assert!(
            divided && size == Some([to.height, to.width]),
            "expected a convolution: {self:?}"
        );
        let bytes = [self.x, self.weight, self.y].map(|span| span.bytes);
        assert_eq!(bytes, self.geometry.bytes(), "bytes of {self:?}");
    }

    /// The two that it reads, and the one that it computes.
    #[cfg(test)]
    pub(crate) fn spans(&self) -> [Span; 3] {
        self.way.order([self.x, self.weight, self.y])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Layout, Program};

    #[test]
    fn a_convolutions_values_fill_their_spans() {
        let shape = |channels, size| Shape {
            channels,
            height: size,
            width: size,
        };
        let geometry = Geometry {
            element: Element::F16,
            images: 3,
            from: shape(8, 5),
            to: shape(4, 3),
            window: Window::new(3).stride(2).padding(1),
            groups: 2,
        };
        assert_eq!(
            geometry.bytes(),
            [3 * 5 * 5 * 8 * 2, 4 * 9 * 4 * 2, 3 * 3 * 3 * 4 * 2]
        );
        let mut layout = Layout::default();
        let [x, weight, y] = geometry.bytes().map(|bytes| layout.place(bytes));
        let right = Convolution {
            geometry,
            way: Way::Weight,
            x,
            weight,
            y,
            onto: Onto::Write,
        };
        assert_eq!(right.spans(), [x, y, weight]);
        let takes = |convolution: Convolution| {
            let taken = || {
                let mut program = Program::default();
                program.convolve(convolution);
                program.work().len()
            };
            std::panic::catch_unwind(taken).ok()
        };
        assert_eq!(takes(right), Some(1));
        let mut short = right;
        short.y.bytes -= 2;
        assert_eq!(takes(short), None);
        let mut unlike = right;
        unlike.geometry.window.padding = [0, 0];
        assert_eq!(takes(unlike), None, "2 by 2 windows");
        let mut uneven = right;
        uneven.geometry.groups = 3;
        assert_eq!(takes(uneven), None);
    }
}
