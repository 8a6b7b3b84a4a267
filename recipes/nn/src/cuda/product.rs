//! Products that the vendor's library computes.

use super::{Element, Span};
use crate::ops::Onto;

/// A product of row-major matrices that the vendor's library computes: `c = a b + bias`, sums in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Product {
    /// Rows of `c`, its columns, and what is summed over.
    pub(crate) sizes: [usize; 3],
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
    /// Of each column, in the element of `c`.
    pub(crate) bias: Option<Span>,
    /// Whether `c` is written or added to.
    pub(crate) onto: Onto,
}

/// A matrix in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) span: Span,
    pub(crate) element: Element,
    /// Values from one row to the next, as it lies in memory.
    pub(crate) pitch: usize,
    /// Whether its rows lie there as columns. `c` is never turned.
    pub(crate) turned: bool,
}

impl Product {
    /// That it is one that can be computed within its spans.
    ///
    /// # Panics
    /// A span is shorter than its matrix, `c` is turned, or the operands are of two elements or of a wider one than `c`.
    pub(crate) fn check(&self) {
        let Self { a, b, c, bias, .. } = self;
        let [rows, columns, depth] = self.sizes;
        let elements = a.element == b.element && c.element.size() >= a.element.size();
        assert!(elements && !c.turned, "a product's matrices: {self:?}");
        let held = a.holds([rows, depth]) && b.holds([depth, columns]) && c.holds([rows, columns]);
        let bias = bias.is_none_or(|bias| bias.bytes >= columns * c.element.size());
        assert!(held && bias, "a product's spans: {self:?}");
    }
}

impl Matrix {
    /// Rows so many values apart.
    pub(crate) fn rows(span: Span, element: Element, pitch: usize) -> Self {
        Self {
            span,
            element,
            pitch,
            turned: false,
        }
    }

    /// With rows and columns exchanged.
    pub(crate) fn turned(self) -> Self {
        Self {
            turned: true,
            ..self
        }
    }

    /// Whether so many rows and columns of it lie within its span.
    fn holds(&self, [rows, columns]: [usize; 2]) -> bool {
        let [rows, columns] = if self.turned {
            [columns, rows]
        } else {
            [rows, columns]
        };
        let values = rows.saturating_sub(1) * self.pitch + columns;
        columns <= self.pitch && values * self.element.size() <= self.span.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Layout, Program};

    #[test]
    fn a_products_matrices_lie_within_their_spans() {
        let mut layout = Layout::default();
        let mut matrix = |element: Element, values: usize, pitch, turned| Matrix {
            span: layout.place(values * element.size()),
            element,
            pitch,
            turned,
        };
        let halves = Element::F16;
        // 3 by 5 by 4: a in rows that are 6 apart, b in its columns.
        let right = Product {
            sizes: [3, 4, 5],
            a: matrix(halves, 2 * 6 + 5, 6, false),
            b: matrix(halves, 3 * 5 + 5, 5, true),
            c: matrix(Element::F32, 3 * 4, 4, false),
            bias: None,
            onto: Onto::Write,
        };
        let takes = |product: Product| {
            let taken = || {
                let mut program = Program::default();
                program.multiply(product);
                program.work().len()
            };
            std::panic::catch_unwind(taken).ok()
        };
        assert_eq!(takes(right), Some(1));
        let nothing = Product {
            sizes: [0, 4, 5],
            ..right
        };
        assert_eq!(takes(nothing), Some(0));
        let mut short = right;
        short.a.span.bytes -= 2;
        assert_eq!(takes(short), None);
        let mut straight = right;
        straight.b.turned = false;
        assert_eq!(takes(straight), None, "5 rows of 4");
        let mut turned = right;
        turned.c.turned = true;
        assert_eq!(takes(turned), None);
        let mut mixed = right;
        mixed.b.element = Element::F32;
        assert_eq!(takes(mixed), None);
        let bias = Some(right.c.span.first(3 * 4));
        assert_eq!(takes(Product { bias, ..right }), None, "4 columns");
    }
}
