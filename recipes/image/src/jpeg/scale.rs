//! A component's lines at the picture's size: libjpeg's "fancy" upsampling, which weights the two nearest samples 3 to 1
//! along each axis that is halved, and repetition for the other factors.

use super::{
    frame::{Component, Frame},
    picture::Plane,
};

/// How a component's lines become the picture's.
pub(super) struct Scale {
    kind: Kind,
    width: usize,
    height: usize,
}

enum Kind {
    Same,
    /// Half as wide.
    Wide,
    /// Half as high.
    Tall,
    /// Half as wide and half as high.
    Both,
    Repeat {
        h: usize,
        v: usize,
    },
}

impl Scale {
    pub(super) fn new(frame: &Frame, component: &Component) -> Self {
        let factors = (frame.h_max / component.h, frame.v_max / component.v);
        let kind = match factors {
            (1, 1) => Kind::Same,
            (1, 2) => Kind::Tall,
            // There is nothing between the samples of so narrow a line, libjpeg says.
            (2, 1) if component.width > 2 => Kind::Wide,
            (2, 2) if component.width > 2 => Kind::Both,
            (h, v) => Kind::Repeat { h, v },
        };
        Self {
            kind,
            width: component.width,
            height: component.height,
        }
    }

    /// The picture's line `y`, in `buffer` or where it stands.
    #[inline(always)]
    pub(super) fn line<'a>(&self, plane: &'a Plane, y: usize, buffer: &'a mut [u8]) -> &'a [u8] {
        let samples = |y: usize| &plane.line(y)[..self.width];
        // The other line that a line between two is made of.
        let beside = || {
            if y.is_multiple_of(2) {
                (y / 2).saturating_sub(1)
            } else {
                (y / 2 + 1).min(self.height - 1)
            }
        };
        match self.kind {
            Kind::Same => return plane.line(y),
            Kind::Wide => widen(samples(y), buffer),
            Kind::Tall => {
                let half = 1 + (y % 2) as u16;
                let lines = samples(y / 2).iter().zip(samples(beside()));
                for (to, (&near, &far)) in buffer.iter_mut().zip(lines) {
                    *to = ((3 * u16::from(near) + u16::from(far) + half) >> 2) as u8;
                }
            }
            Kind::Both => widen_between(samples(y / 2), samples(beside()), buffer),
            Kind::Repeat { h, v } => {
                for (to, &sample) in buffer.chunks_mut(h).zip(samples(y / v)) {
                    to.fill(sample);
                }
            }
        }
        buffer
    }
}

/// A line at twice its width. It has three samples at least.
#[inline(always)]
fn widen(line: &[u8], to: &mut [u8]) {
    let end = line.len() - 1;
    to[0] = line[0];
    to[2 * end + 1] = line[end];
    // The samples at the right of one and at the left of the next lie between both.
    let pairs = line[..end].iter().zip(&line[1..]);
    for (to, (&left, &right)) in to[1..].as_chunks_mut().0.iter_mut().zip(pairs) {
        let (left, right) = (u16::from(left), u16::from(right));
        *to = pair((3 * left + right + 2) >> 2, (3 * right + left + 1) >> 2);
    }
}

/// The same for a line between two, nearer to the first.
#[inline(always)]
fn widen_between(near: &[u8], far: &[u8], to: &mut [u8]) {
    let end = near.len() - 1;
    let sum = |near: u8, far: u8| 3 * u16::from(near) + u16::from(far);
    to[0] = ((4 * sum(near[0], far[0]) + 8) >> 4) as u8;
    to[2 * end + 1] = ((4 * sum(near[end], far[end]) + 7) >> 4) as u8;
    let lefts = near[..end].iter().zip(&far[..end]);
    let rights = near[1..].iter().zip(&far[1..]);
    let pairs = lefts.zip(rights);
    for (to, (left, right)) in to[1..].as_chunks_mut().0.iter_mut().zip(pairs) {
        let (left, right) = (sum(*left.0, *left.1), sum(*right.0, *right.1));
        *to = pair((3 * left + right + 7) >> 4, (3 * right + left + 8) >> 4);
    }
}

/// Two samples, as the halves of a number: so a compiler's vectors need not be taken apart.
#[inline(always)]
fn pair(left: u16, right: u16) -> [u8; 2] {
    (left | right << 8).to_le_bytes()
}
