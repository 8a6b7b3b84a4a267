//! A network's first layer: with three colours a tap has little to copy, but the taps of a line of the kernel lie in one piece,
//! if an image's lines have their padding in memory. So a line is one tap with more channels, some of them the next tap's.

use candle_core::Result;

use super::{
    Layer,
    dense::{Border, Filled, copies, gather, lay_lines},
    weight::Sums,
};
use crate::{
    cuda::{Draft, Element, Span},
    graph::{Convolution, Shape, Window},
};

/// Values of a pixel in memory.
const WIDE: usize = 4;

/// A layer whose taps are lines.
pub(super) struct Lines {
    layer: Layer,
    /// Pixels and channels of a line that comes in, and zeros before it.
    own: [usize; 2],
    left: usize,
    /// Taps of a line, and its values with those behind.
    taps: usize,
    line: usize,
    /// Bytes of a copy.
    copies: usize,
}

impl Lines {
    /// Of a layer of few channels.
    pub(super) fn of(layer: &Layer, element: Element) -> Option<Self> {
        let Layer {
            convolution,
            from,
            to,
            images,
        } = layer;
        let Window {
            kernel,
            stride,
            padding,
        } = convolution.window;
        let few = convolution.groups == 1 && from.channels <= WIDE && kernel[1] > 1;
        if !few || !to.channels.is_multiple_of(2) {
            return None;
        }
        // From window to window.
        let copies = copies(stride[1] * WIDE, element);
        let line = (kernel[1] * WIDE).next_multiple_of(copies / element.size());
        // The last window's line ends within the image's, whose lines begin where copies can.
        let covered = (to.width - 1) * stride[1] + line / WIDE;
        let width = covered.max(padding[1] + from.width).next_multiple_of(2);
        let window = Window {
            kernel: [kernel[0], 1],
            stride,
            padding: [padding[0], 0],
        };
        Some(Self {
            layer: Layer {
                convolution: Convolution {
                    window,
                    ..convolution.clone()
                },
                from: Shape {
                    channels: WIDE,
                    width,
                    ..*from
                },
                to: *to,
                images: *images,
            },
            own: [from.width, from.channels],
            left: padding[1],
            taps: kernel[1],
            line,
            copies,
        })
    }

    fn filled_bytes(&self, element: Element) -> usize {
        self.layer.images * self.layer.from.values() * element.size()
    }

    /// The images with their padding.
    fn fill(&self, draft: &mut Draft, x: Span, to: Span) -> Result<Filled> {
        let [width, channels] = self.own;
        let Shape {
            height,
            width: wide,
            ..
        } = self.layer.from;
        let border = Border {
            from: [height, width, channels],
            to: [height, wide, WIDE],
            before: [0, self.left],
        };
        border.fill(draft, x, to)?;
        Ok(Filled {
            span: to,
            own: self.line,
            pitch: WIDE,
            copies: self.copies,
        })
    }

    pub(super) fn forward(
        &self,
        draft: &mut Draft,
        (weight, bias): (Span, Option<Span>),
        [x, y]: [Span; 2],
    ) -> Result<()> {
        let element = draft.target.element;
        let lines = self.layer.convolution.window.kernel[0];
        let values = self.layer.to.channels * lines * self.line;
        let [laid, filled] = draft.scratch([values * element.size(), self.filled_bytes(element)]);
        let x = self.fill(draft, x, filled)?;
        let own = ([lines, self.taps], self.own[1]);
        lay_lines(draft, [weight, laid], own, ([lines, self.line], WIDE))?;
        gather(&self.layer, draft, x, (laid, bias), (y, None))
    }

    pub(super) fn backward_weight(
        &self,
        draft: &mut Draft,
        [x, dy]: [Span; 2],
        dweight: Span,
    ) -> Result<()> {
        let element = draft.target.element;
        let outputs = self.layer.to.channels;
        let copies = [self.copies, copies(outputs, element)];
        let sums = Sums::of(&self.layer, draft, [self.line, outputs], copies);
        let [filled, parts] = draft.scratch([self.filled_bytes(element), sums.bytes(dweight)]);
        let x = self.fill(draft, x, filled)?;
        let dy = Filled {
            span: dy,
            own: outputs,
            pitch: outputs,
            copies: copies[1],
        };
        let columns = [1, self.taps * self.own[1], outputs, WIDE, self.own[1]];
        sums.launch(&self.layer, draft, [x, dy], columns, (parts, dweight))
    }
}
