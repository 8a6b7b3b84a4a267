//! The kernels of `crf.cu`: scores of tags, and the best path through them.

use super::Call;
use crate::cuda::Element;

impl Call<'_, '_> {
    pub(super) fn score(&mut self, element: Element) {
        self.arguments(11);
        let (x, dense, dense_bias) = (self.span(0), self.span(1), self.span(2));
        let (weight, bias, scores) = (self.span(3), self.span(4), self.span(5));
        let (rows, inputs, stride) = (self.int(6), self.int(7), self.int(8));
        let (units, tags) = (self.int(9), self.int(10));
        let padded = inputs.next_multiple_of(32);
        let dense_at: Box<dyn Fn(usize, usize) -> usize> = match element {
            Element::F16 => {
                assert!(units.is_multiple_of(8) && stride.is_multiple_of(8));
                assert_eq!(dense.bytes, units * padded * 2);
                let blocks = self.launch.grid.blocks[0];
                assert!((1..=rows.div_ceil(64)).contains(&blocks));
                let shared = (units + 64) * (padded + 8) * 2 + 4 * tags * (units + 256);
                self.expect_grid([blocks, 1], 256, shared);
                Box::new(move |unit, input| unit * padded + input)
            }
            Element::F32 => {
                assert_eq!(dense.bytes, units * inputs * 4);
                self.expect_grid([rows.div_ceil(16), 1], 128, 64 * (inputs + units + 2));
                Box::new(move |unit, input| input * units + unit)
            }
        };
        let memory = &mut *self.memory;
        for row in 0..rows {
            let hidden: Vec<f32> = (0..units)
                .map(|unit| {
                    let mut sum = memory.value(dense_bias, Element::F32, unit);
                    for input in 0..inputs {
                        sum += memory.value(x, element, row * stride + input)
                            * memory.value(dense, element, dense_at(unit, input));
                    }
                    sum.tanh()
                })
                .collect();
            for tag in 0..tags {
                let mut sum = memory.value(bias, Element::F32, tag);
                for (unit, hidden) in hidden.iter().enumerate() {
                    sum += hidden * memory.value(weight, Element::F32, tag * units + unit);
                }
                memory.put_value(scores, Element::F32, row * tags + tag, sum);
            }
        }
    }

    pub(super) fn decode(&mut self) {
        self.arguments(9);
        let (scores, sequences) = (self.span(0), self.span(1));
        let (start, end, transitions) = (self.span(2), self.span(3), self.span(4));
        let (back, labels) = (self.span(5), self.span(6));
        let (count, tags) = (self.int(7), self.int(8));
        self.expect_grid([count.div_ceil(4), 1], 128, 0);
        let memory = &mut *self.memory;
        for sequence in 0..count {
            let [first, length] = [0, 1].map(|i| memory.number(sequences, 4 * sequence + i));
            let (first, length) = (first as usize, length as usize);
            if length == 0 {
                continue;
            }
            let score = |row: usize, tag| memory.value(scores, Element::F32, row * tags + tag);
            let floats = |span, index| memory.value(span, Element::F32, index);
            let best = |scores: &[f32]| {
                let highest = scores.iter().copied().fold(f32::MIN, f32::max);
                (
                    scores
                        .iter()
                        .position(|score| *score == highest)
                        .expect("there is a tag"),
                    highest,
                )
            };
            let mut now: Vec<f32> = (0..tags)
                .map(|tag| floats(start, tag) + score(first, tag))
                .collect();
            let mut from = Vec::new();
            for row in first + 1..first + length {
                let steps: Vec<_> = (0..tags)
                    .map(|to| {
                        let add = |tag| now[tag] + floats(transitions, tag * tags + to);
                        best(&(0..tags).map(add).collect::<Vec<_>>())
                    })
                    .collect();
                now = (0..tags)
                    .map(|tag| steps[tag].1 + score(row, tag))
                    .collect();
                from.push(steps);
            }
            let last: Vec<f32> = (0..tags).map(|tag| now[tag] + floats(end, tag)).collect();
            let mut label = best(&last).0;
            memory.put(labels, first + length - 1, &[label as u8]);
            for row in (first..first + length - 1).rev() {
                label = from[row - first][label].0;
                memory.put(labels, row, &[label as u8]);
            }
            for row in first..first + length {
                memory.put(back, row, &[0; 8]);
            }
        }
    }
}
