//! What holds of every program that can be run: it stays within memory, and nothing is overwritten before it was read.

use super::{Argument, Convolution, Launch, Layout, Place, Product, Program, Span, Work};
use crate::ops::Onto;

/// A program and the memory that it is for.
pub(crate) struct Check<'a> {
    pub(crate) program: &'a Program,
    /// Bytes of the weights.
    pub(crate) weights: usize,
    pub(crate) layout: Layout,
    /// What is copied from the host before.
    pub(crate) input: Span,
    /// What is copied to the host after.
    pub(crate) output: Span,
}

impl Check<'_> {
    /// Goes through the launches.
    ///
    /// # Panics
    /// A span is misaligned or outside the memory; a launch writes weights, writes what it reads otherwise than in
    /// place, or reads what nobody has written or what has been written over in between.
    pub(crate) fn run(&self) {
        // What memory holds: spans as they were last written, none overlapping another.
        let mut held: Vec<Span> = vec![self.input];
        for work in self.program.work() {
            let name = name(work);
            let (read, written) = spans(work);
            for span in read.iter().chain(&written) {
                self.place(name, *span);
            }
            for span in read.iter().filter(|span| is_pass(span)) {
                let whole = held.iter().any(|held| contains(*held, *span));
                assert!(whole, "{name} reads {span:?}, but memory holds {held:?}");
            }
            for span in written {
                assert!(is_pass(&span), "{name} writes weights");
                for read in &read {
                    let apart = !overlap(*read, span) || read.place == span.place;
                    assert!(apart, "{name} writes {span:?} while it reads {read:?}");
                }
                held.retain(|held| !overlap(*held, span));
                held.push(span);
            }
        }
        let whole = held.iter().any(|held| contains(*held, self.output));
        assert!(whole, "the output {:?} is not among {held:?}", self.output);
    }

    fn place(&self, name: &str, span: Span) {
        let (start, end) = match span.place {
            Place::Weights(start) => (start, self.weights),
            Place::Pass(start) => (start, self.layout.bytes()),
        };
        assert!(
            start + span.bytes <= end,
            "{name} goes beyond the memory: {span:?}"
        );
        assert!(
            start.is_multiple_of(16),
            "{name} is given a misaligned {span:?}"
        );
    }
}

/// What it is called.
pub(crate) fn name(work: &Work) -> &str {
    match work {
        Work::Launch(launch) => &launch.kernel,
        Work::Product(_) => "product",
        Work::Convolution(_) => "convolution",
        Work::Average(_) => "average",
        Work::Join => "join",
    }
}

/// What it reads, and what it writes.
pub(crate) fn spans(work: &Work) -> (Vec<Span>, Vec<Span>) {
    match work {
        Work::Launch(launch) => of_launch(launch),
        Work::Product(product) => of_product(product),
        Work::Convolution(convolution) => of_convolution(convolution),
        Work::Average(values) => (vec![*values], vec![*values]),
        Work::Join => (Vec::new(), Vec::new()),
    }
}

fn of_launch(launch: &Launch) -> (Vec<Span>, Vec<Span>) {
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for argument in &launch.arguments {
        match argument {
            Argument::Read(span) => read.push(*span),
            Argument::ReadMap(map) => read.push(map.span),
            Argument::Write(span) => written.push(*span),
            Argument::WriteMap(map) => written.push(map.span),
            Argument::ReadPatches(patches) => read.push(patches.span),
            Argument::ReadBoxes(boxes) => read.push(boxes.span),
            Argument::WriteBoxes(boxes) => written.push(boxes.span),
            Argument::Null | Argument::Word(_) => {}
        }
    }
    (read, written)
}

fn of_product(product: &Product) -> (Vec<Span>, Vec<Span>) {
    let added = (product.onto == Onto::Add).then_some(product.c.span);
    let read = [product.a.span, product.b.span].into_iter();
    let read = read.chain(product.bias).chain(added);
    (read.collect(), vec![product.c.span])
}

fn of_convolution(convolution: &Convolution) -> (Vec<Span>, Vec<Span>) {
    let [first, second, result] = convolution.spans();
    let added = (convolution.onto == Onto::Add).then_some(result);
    let read = [first, second].into_iter().chain(added);
    (read.collect(), vec![result])
}

fn is_pass(span: &Span) -> bool {
    matches!(span.place, Place::Pass(_))
}

/// Where a span of the pass's memory begins and ends; those of weights are elsewhere.
fn bounds(span: Span) -> (usize, usize) {
    match span.place {
        Place::Pass(start) => (start, start + span.bytes),
        Place::Weights(_) => (usize::MAX, usize::MAX),
    }
}

/// Whether two spans have memory in common.
pub(crate) fn overlap(a: Span, b: Span) -> bool {
    let ((a, a_end), (b, b_end)) = (bounds(a), bounds(b));
    a < b_end && b < a_end
}

fn contains(outer: Span, inner: Span) -> bool {
    let ((outer, outer_end), (inner, inner_end)) = (bounds(outer), bounds(inner));
    outer <= inner && inner_end <= outer_end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Grid, Source};

    /// A program of launches that read one span and write another.
    fn program(launches: &[(Span, Span)]) -> Program {
        let mut program = Program::default();
        for (from, to) in launches {
            let kernel = (Source::Pixels, "copy");
            // SAFETY: it is never run.
            unsafe { program.push(kernel, Grid::row(1, 32), [from.read(), to.write()]) }.unwrap();
        }
        program
    }

    #[test]
    fn what_is_read_must_have_been_written_and_not_been_written_over() {
        let mut layout = Layout::default();
        let [a, b, c] = [512, 512, 512].map(|bytes| layout.place(bytes));
        let holds = |launches: &[(Span, Span)], output| {
            let program = program(launches);
            let check = Check {
                program: &program,
                weights: 0,
                layout,
                input: a,
                output,
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check.run())).is_ok()
        };
        assert!(holds(&[(a, b), (b, c)], c));
        assert!(holds(&[(a, b), (b.first(256), b.first(256))], b.first(256)));
        assert!(!holds(&[(a, b), (c, b)], b), "nobody wrote c");
        assert!(
            !holds(&[(a, b), (a, b.first(256))], b),
            "half of b is another's"
        );
        assert!(!holds(&[(a, b)], c));
        let beyond = Span {
            place: c.place,
            bytes: 513,
        };
        assert!(!holds(&[(a, beyond)], c));
        assert!(!holds(&[(a, a.part(8, 64))], a.part(8, 64)), "misaligned");
        assert!(
            !holds(&[(a, a.part(256, 256))], a.part(256, 256)),
            "not in place"
        );
    }
}
