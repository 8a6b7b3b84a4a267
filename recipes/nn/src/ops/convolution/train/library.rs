//! A convolution that is trained on a CUDA device, by the vendor's library. A bias is not its own: neither a term nor a gradient.

use crate::{
    cuda::{Convolution, Draft, Element, Geometry, Span, Way},
    graph::{self, Shape},
    ops::Onto,
};

/// A layer for so many images at a time. Values are `[images, height, width, channels]`, filters `[outputs, kernel down,
/// kernel across, channels / groups]`, all of one element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library {
    pub(crate) geometry: Geometry,
}

impl Library {
    /// Of images `from`, which become `to`.
    pub(crate) fn new(
        element: Element,
        layer: &graph::Convolution,
        from: Shape,
        to: Shape,
        images: usize,
    ) -> Self {
        Self {
            geometry: Geometry {
                element,
                images,
                from,
                to,
                window: layer.window,
                groups: layer.groups,
            },
        }
    }

    /// What becomes of images.
    pub(crate) fn forward(&self, draft: &mut Draft, x: Span, weight: Span, y: Span) {
        draft.convolve(self.of(Way::Forward, [x, weight, y], Onto::Write));
    }

    /// The gradient of the images, of that of what became of them.
    pub(crate) fn backward_input(
        &self,
        draft: &mut Draft,
        weight: Span,
        dy: Span,
        (dx, onto): (Span, Onto),
    ) {
        draft.convolve(self.of(Way::Input, [dx, weight, dy], onto));
    }

    /// The gradient of the filters, in the element of all of them.
    pub(crate) fn backward_weight(&self, draft: &mut Draft, x: Span, dy: Span, dweight: Span) {
        draft.convolve(self.of(Way::Weight, [x, dweight, dy], Onto::Write));
    }

    fn of(&self, way: Way, [x, weight, y]: [Span; 3], onto: Onto) -> Convolution {
        Convolution {
            geometry: self.geometry,
            way,
            x,
            weight,
            y,
            onto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Layout, Target, check::Check};

    #[test]
    fn a_layer_and_its_gradients_read_and_write_what_they_are_given() {
        let layer = graph::Convolution::new(6, [3, 5])
            .stride([2, 1])
            .padding([1, 0])
            .groups(3);
        let shape = |channels, height, width| Shape {
            channels,
            height,
            width,
        };
        let (from, to) = (shape(9, 8, 7), shape(6, 4, 3));
        let library = Library::new(Element::F32, &layer, from, to, 2);
        let [values, filters, results] = library.geometry.bytes();
        assert_eq!(
            [values, filters, results],
            [2 * 504 * 4, 6 * 45 * 4, 2 * 72 * 4]
        );
        let mut layout = Layout::default();
        let start = layout;
        let [x, weight] = [values, filters].map(|bytes| layout.place(bytes));
        let input = layout.since(start);
        let [y, dy] = [results, results].map(|bytes| layout.place(bytes));
        let [dx, dweight] = [values, filters].map(|bytes| layout.place(bytes));
        let mut draft = Draft::new(Target::hopper(Element::F32), layout);
        library.forward(&mut draft, x, weight, y);
        library.forward(&mut draft, x, weight, dy);
        library.backward_input(&mut draft, weight, dy, (dx, Onto::Write));
        library.backward_input(&mut draft, weight, dy, (dx, Onto::Add));
        library.backward_weight(&mut draft, x, dy, dweight);
        let (program, layout) = draft.finish();
        assert_eq!(program.work().len(), 5);
        Check {
            program: &program,
            weights: 0,
            layout,
            input,
            output: dweight,
        }
        .run();
    }
}
