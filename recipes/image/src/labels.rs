//! The names of ImageNet's thousand classes, in the order that every model trained on them uses.

use galley_core::{ImageClass, LoadError};
use serde::Deserialize;

/// A class's names.
#[derive(Clone, Debug, Deserialize)]
pub struct Label {
    /// The one to read.
    pub name: String,
    /// The WordNet id.
    pub synset: Option<String>,
}

galley_core::embed!(
    /// ImageNet's, as a file.
    pub IMAGENET,
    "../imagenet/labels.json"
);

/// ImageNet's.
pub(crate) fn imagenet() -> Result<Vec<Label>, LoadError> {
    #[derive(Deserialize)]
    struct File {
        labels: Vec<Label>,
    }
    let file: File = serde_json::from_slice(&IMAGENET)
        .map_err(|error| LoadError::invalid("the bundled labels", error))?;
    Ok(file.labels)
}

/// The `count` likeliest classes with their softmax probabilities, best first.
pub(crate) fn top(logits: &[f32], labels: &[Label], count: usize) -> Vec<ImageClass> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // Stable, so that of equal classes the first comes first; a thousand take microseconds.
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let largest = order.first().map_or(0.0, |best| logits[*best]);
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    order
        .into_iter()
        .take(count)
        .map(|class| ImageClass {
            class: labels
                .get(class)
                .map_or_else(|| format!("class {class}"), |label| label.name.clone()),
            class_id: class as u32,
            synset: labels.get(class).and_then(|label| label.synset.clone()),
            score: (logits[class] - largest).exp() / sum,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_a_softmax_and_sorted() {
        let classes = top(&[1.0, 3.0, 2.0], &[], 2);
        assert_eq!([classes[0].class_id, classes[1].class_id], [1, 2]);
        assert_eq!(classes[0].class, "class 1");
        assert!((classes[0].score - 0.665_241).abs() < 1e-6);
        assert!((classes[1].score - 0.244_728).abs() < 1e-6);
    }

    #[test]
    fn espresso_is_class_967() {
        let labels = imagenet().unwrap();
        assert_eq!(labels.len(), 1000);
        assert_eq!(labels[967].name, "espresso");
        assert_eq!(labels[967].synset.as_deref(), Some("n07920052"));
    }
}
