//! A program in the making.

use candle_core::Result;

use super::{Argument, Convolution, Grid, Layout, Place, Product, Program, Source, Span, Target};

/// A program, and the memory that its operators work in besides what they read and write.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) target: Target,
    program: Program,
    /// Where the memory to work in begins: behind everything else.
    layout: Layout,
    /// The most of it that an operator wanted.
    most: usize,
}

impl Draft {
    /// A program that has its values where `layout` has placed them.
    pub(crate) fn new(target: Target, layout: Layout) -> Self {
        Self {
            target,
            program: Program::default(),
            layout,
            most: 0,
        }
    }

    /// Pieces of memory of so many bytes, of any content, until the next call.
    pub(crate) fn scratch<const N: usize>(&mut self, bytes: [usize; N]) -> [Span; N] {
        let mut layout = self.layout;
        let spans = bytes.map(|bytes| layout.place(bytes));
        self.most = self.most.max(layout.bytes() - self.layout.bytes());
        spans
    }

    /// Adds a launch of a kernel whose name says for which element it is: `NAME_f16`.
    ///
    /// # Errors
    /// The grid is larger than any card takes.
    ///
    /// # Safety
    /// As [`Program::push`].
    pub(crate) unsafe fn launch(
        &mut self,
        (source, name): (Source, &str),
        grid: Grid,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let kernel = format!("{name}_{}", self.target.element.name());
        // SAFETY: as the caller's.
        unsafe { self.program.push((source, kernel), grid, arguments) }
    }

    /// As [`Self::launch`], of a kernel whose blocks wait for each other.
    ///
    /// # Errors
    /// As [`Self::launch`].
    ///
    /// # Safety
    /// As [`Program::push`].
    pub(crate) unsafe fn launch_together(
        &mut self,
        (source, name): (Source, &str),
        grid: Grid,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> Result<()> {
        let kernel = format!("{name}_{}", self.target.element.name());
        // SAFETY: as the caller's.
        unsafe { (self.program).push_together((source, kernel), grid, arguments) }
    }

    /// What there is of the program, for operators that add to it themselves.
    pub(crate) fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Adds a product.
    ///
    /// # Panics
    /// As [`Program::multiply`].
    pub(crate) fn multiply(&mut self, product: Product) {
        self.program.multiply(product);
    }

    /// Adds a convolution.
    ///
    /// # Panics
    /// As [`Program::convolve`].
    pub(crate) fn convolve(&mut self, convolution: Convolution) {
        self.program.convolve(convolution);
    }

    /// Adds an average over all devices.
    pub(crate) fn average(&mut self, values: Span) {
        self.program.average(values);
    }

    /// Has what follows wait for all averages.
    pub(crate) fn join(&mut self) {
        self.program.join();
    }

    /// The program, and all memory that it uses.
    pub(crate) fn finish(self) -> (Program, Layout) {
        let mut layout = self.layout;
        let Place::Pass(_) = layout.place(self.most).place else {
            unreachable!("a layout places in a pass's memory")
        };
        (self.program, layout)
    }
}
