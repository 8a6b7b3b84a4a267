//! How well boundaries are found in text that the weights were not learnt from.

use std::{collections::HashMap, io::Write as _, time::Instant};

use serde::Deserialize;

use super::{SINGLE_PASS, bundled, segment};
use crate::text::words;

/// Boundaries found and right, boundaries found, boundaries there are.
#[derive(Default)]
struct Score(usize, usize, usize);

#[derive(Deserialize)]
struct Line {
    style: String,
    text: String,
    sentences: Vec<String>,
}

#[test]
fn boundary_f1_on_held_out_text_is_what_the_readme_says() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/reference/deepsegment_en/eval_test.jsonl"
    );
    let Ok(file) = std::fs::read_to_string(path) else {
        // Past the test harness, which shows what a passing test prints to nobody.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no ../shared/reference/deepsegment_en/eval_test.jsonl"
        );
        return;
    };
    let lines: Vec<Line> = file
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let recipe = bundled();
    let start = Instant::now();
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let answers = segment(&recipe, &texts, SINGLE_PASS);
    println!("{} texts in {:?}", texts.len(), start.elapsed());
    let mut scores: HashMap<&str, Score> = HashMap::new();
    for (line, answer) in lines.iter().zip(&answers) {
        let score = scores.entry(&line.style).or_default();
        let (found, there) = (starts(answer), starts(&line.sentences));
        score.0 += found.iter().filter(|start| there.contains(start)).count();
        score.1 += found.len();
        score.2 += there.len();
    }
    for (style, precision, recall) in [("lower", 0.5153, 0.6375), ("cased", 0.5185, 0.6421)] {
        let Score(right, found, there) = scores[style];
        let (p, r) = (right as f64 / found as f64, right as f64 / there as f64);
        println!("{style}: precision {p:.4}, recall {r:.4}");
        assert!(
            (p - precision).abs() < 2e-4 && (r - recall).abs() < 2e-4,
            "{style}: {p} {r}"
        );
    }
}

/// The first words of all sentences but the first.
fn starts(sentences: &[String]) -> Vec<usize> {
    let mut end = 0;
    let mut starts: Vec<usize> = Vec::new();
    for sentence in sentences {
        starts.push(end);
        end += words(sentence).count();
    }
    starts.drain(..1.min(starts.len()));
    starts
}
