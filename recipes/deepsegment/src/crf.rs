//! The linear-chain conditional random field: from scores of each word's labels to the best sequence of labels.

use candle_core::{Device, Result};
use candle_nn::VarBuilder;

/// Labels of a word: padding, inside a sentence, beginning of one.
pub(crate) const LABELS: usize = 3;

/// Scores of labels at the ends and next to each other.
#[derive(Clone, Debug)]
pub(crate) struct Crf {
    start: [f32; LABELS],
    end: [f32; LABELS],
    /// `[from][to]`.
    transitions: [[f32; LABELS]; LABELS],
}

impl Crf {
    /// Reads `start`, `end` and `transitions`.
    pub(crate) fn load(vb: &VarBuilder<'_>) -> Result<Self> {
        let get = |shape: &[usize], name: &str| {
            vb.get(shape, name)?
                .to_device(&Device::Cpu)?
                .flatten_all()?
                .to_vec1::<f32>()
        };
        let row = |values: &[f32]| std::array::from_fn(|label| values[label]);
        let transitions = get(&[LABELS, LABELS], "transitions")?;
        Ok(Self {
            start: row(&get(&[LABELS], "start")?),
            end: row(&get(&[LABELS], "end")?),
            transitions: std::array::from_fn(|from| row(&transitions[from * LABELS..])),
        })
    }

    /// The labels with the highest sum of scores (Viterbi's algorithm); of equal ones, the lower.
    pub(crate) fn best(&self, emissions: &[[f32; LABELS]]) -> Vec<u8> {
        let Some((first, rest)) = emissions.split_first() else {
            return Vec::new();
        };
        let mut score: [f32; LABELS] =
            std::array::from_fn(|label| self.start[label] + first[label]);
        let mut from = Vec::with_capacity(rest.len());
        for emission in rest {
            let steps: [(u8, f32); LABELS] = std::array::from_fn(|to| {
                argmax(std::array::from_fn(|from| {
                    score[from] + self.transitions[from][to]
                }))
            });
            score = std::array::from_fn(|to| steps[to].1 + emission[to]);
            from.push(steps.map(|(label, _)| label));
        }
        let (mut label, _) = argmax(std::array::from_fn(|label| score[label] + self.end[label]));
        let mut labels = vec![label; emissions.len()];
        for (place, from) in labels.iter_mut().zip(&from).rev() {
            label = from[usize::from(label)];
            *place = label;
        }
        labels
    }
}

fn argmax(scores: [f32; LABELS]) -> (u8, f32) {
    let mut best = (0, scores[0]);
    for (label, score) in (0..).zip(scores) {
        if score > best.1 {
            best = (label, score);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use galley_core::synthetic;

    use super::*;

    fn score(crf: &Crf, emissions: &[[f32; LABELS]], labels: &[u8]) -> f32 {
        let at = |i: usize| usize::from(labels[i]);
        let last = labels.len() - 1;
        let inner: f32 = (0..=last).map(|i| emissions[i][at(i)]).sum();
        let steps: f32 = (0..last).map(|i| crf.transitions[at(i)][at(i + 1)]).sum();
        crf.start[at(0)] + inner + steps + crf.end[at(last)]
    }

    #[test]
    fn no_sequence_of_labels_scores_higher_than_the_one_found() {
        for seed in 0..300 {
            let mut random = synthetic::uniform("crf", seed);
            let mut row = || std::array::from_fn(|_| random.next().unwrap() * 3.0);
            let crf = Crf {
                start: row(),
                end: row(),
                transitions: std::array::from_fn(|_| row()),
            };
            let length = 1 + seed as usize % 6;
            let emissions: Vec<[f32; LABELS]> = (0..length).map(|_| row()).collect();
            let best = crf.best(&emissions);
            assert_eq!(best.len(), length);
            let highest = (0..LABELS.pow(length as u32))
                .map(|code| {
                    let labels: Vec<u8> = (0..length as u32)
                        .map(|i| (code / LABELS.pow(i) % LABELS) as u8)
                        .collect();
                    score(&crf, &emissions, &labels)
                })
                .fold(f32::MIN, f32::max);
            let got = score(&crf, &emissions, &best);
            assert!(
                (got - highest).abs() < 1e-4,
                "seed {seed}: {got} < {highest}"
            );
        }
    }

    #[test]
    fn of_equal_labels_the_lower_is_chosen() {
        let crf = Crf {
            start: [0.0; 3],
            end: [0.0; 3],
            transitions: [[0.0; 3]; 3],
        };
        assert_eq!(crf.best(&[[0.0, 1.0, 1.0], [2.0; 3]]), [1, 0]);
        assert!(crf.best(&[]).is_empty());
    }
}
