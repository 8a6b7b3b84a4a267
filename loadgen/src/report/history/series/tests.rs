use super::*;
use crate::report::{
    record::{Packed, Run, Steps},
    tests::{matrix, run},
};

fn measured(what: &str, date: &str, records: Vec<Record>) -> Measured {
    let run = Run {
        date: date.into(),
        ..run(what)
    };
    Measured {
        folder: date.into(),
        facts: Facts::of(&run),
        records,
    }
}

#[test]
fn served_passes_are_compared_with_native_of_their_batch_and_repeat() {
    let runs = [measured("matrix", "2030-01-02", matrix())];
    let all = series(&runs);
    let names: Vec<String> = all.iter().map(|series| series.mode.to_string()).collect();
    assert_eq!(
        names,
        [
            "native, batch 1",
            "native, batch 32",
            "served, batch 1, 16 in flight",
            "served, batch 32, 16 in flight"
        ]
    );
    // 1024 items in 4 s and in 6 s, served in 2.5 s each time.
    let ratio = all[2].points[0].values[3].unwrap();
    assert!((ratio.least - 1.6).abs() < 1e-9 && (ratio.most - 2.4).abs() < 1e-9);
    assert!((ratio.median - 2.0).abs() < 1e-9);
    assert_eq!(all[0].points[0].values[3], None);
    // 32 requests tell no p99.
    assert_eq!(all[3].points[0].values[2], None);
    assert_eq!(all[2].points[0].values[2].unwrap().median, 10.25);
}

#[test]
fn a_models_steps_are_a_series_of_their_own() {
    let steps = Steps {
        model: "resnet50".into(),
        action: "inference".into(),
        precision: "float16".into(),
        device: "cuda:0".into(),
        batch: 4,
        shape: vec![4, 3, 224, 224],
        step_ms: Packed(vec![1.0, 2.0, 3.0]),
        ..Steps::default()
    };
    let none = Steps::default();
    let records = [steps, none].map(|steps| Record::Steps(Box::new(steps)));
    let runs = [measured("models", "2030-01-02", records.into())];
    let [series] = &series(&runs)[..] else {
        panic!("expected one series");
    };
    assert_eq!(
        series.mode.to_string(),
        "steps of inference, [4, 3, 224, 224]"
    );
    assert_eq!(
        (
            series.subject.recipe.as_str(),
            series.subject.dtype.as_str()
        ),
        ("resnet50", "float16")
    );
    // Twelve samples in 6 ms.
    let values = series.points[0]
        .values
        .map(|band| band.map(|band| band.median));
    assert!((values[0].unwrap() - 2000.0).abs() < 1e-9);
    assert_eq!((values[1], values[2]), (Some(2.0), None));
}

#[test]
fn only_what_is_the_same_is_a_series_and_its_runs_are_in_order() {
    let mut other = measured("native", "2030-01-04", matrix());
    other.facts.machine = "other".into();
    let mut compared = matrix();
    for record in &mut compared {
        if let Record::Native(native) = record {
            native.dtype = Some("bf16".into());
        }
    }
    let runs = [
        measured("matrix", "2030-01-03", matrix()),
        measured("matrix", "2030-01-02", matrix()),
        other,
        measured("compare", "2030-01-05", compared),
    ];
    let all = series(&runs);
    let native: Vec<&Series> = all
        .iter()
        .filter(|series| {
            series.mode
                == Mode::Native {
                    batch: 1,
                    in_flight: 1,
                }
        })
        .collect();
    let dates = |series: &Series| -> Vec<String> {
        let points = series.points.iter();
        points.map(|point| point.date.clone()).collect()
    };
    assert_eq!(native.len(), 3);
    assert_eq!(native[0].subject.dtype, "bf16");
    assert_eq!(dates(native[1]), ["2030-01-02", "2030-01-03"]);
    assert_eq!(native[1].points[0].version, "0.1.0 (abc1234)");
    assert_eq!(native[2].subject.machine, "other");
}
