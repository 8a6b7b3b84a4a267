//! Made-up histories, with what is known of noise: the machine is another each day, passes of one sitting differ by a percent or two,
//! and now and then a neighbour takes a part of a pass.

use std::{fs, path::PathBuf};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::Normal;
use tempfile::TempDir;

use super::*;
use crate::{
    report::{
        Folder,
        record::{Native, Record, Run, Served},
        tests::run,
    },
    stats::Latency,
};

/// Repeats of a run, as `bench matrix` has them.
const REPEATS: usize = 3;
const EXAMPLES: usize = 8192;
/// Requests in flight of served passes, which make a series each.
const USERS: [usize; 4] = [1, 16, 64, 256];
/// Batch sizes, likewise.
const BATCHES: [usize; 5] = [1, 2, 8, 32, 128];

/// A machine, and what becomes of its runs.
struct Machine {
    random: StdRng,
    /// The standard deviation of a pass's logarithm.
    noise: f64,
    /// How often a neighbour takes a part of a pass.
    disturbed: f64,
    /// How fast the machine is today.
    today: f64,
}

impl Machine {
    fn new(seed: u64, noise: f64, disturbed: f64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            noise,
            disturbed,
            today: 1.0,
        }
    }

    fn normal(&mut self, deviation: f64) -> f64 {
        self.random.sample(Normal::new(0.0, deviation).unwrap())
    }

    /// Half of what made it slow or fast yesterday does so today.
    fn sleep(&mut self) {
        self.today = self.today.sqrt() * self.normal(0.04).exp();
    }

    /// What a pass takes that would take so long on a good day.
    fn seconds(&mut self, on_a_good_day: f64) -> f64 {
        let noise = self.normal(self.noise).exp();
        let neighbour = match self.random.random_bool(self.disturbed) {
            true => self.random.random_range(1.05..1.3),
            false => 1.0,
        };
        on_a_good_day / self.today * noise * neighbour
    }

    fn passes(&mut self, slower: &dyn Fn(usize, usize) -> f64) -> Vec<Record> {
        let mut records = Vec::new();
        for repeat in 0..REPEATS {
            for batch in BATCHES {
                let seconds = self.seconds(4.0);
                records.push(Record::Native(native(batch, repeat, seconds)));
                for users in USERS {
                    let seconds = self.seconds(4.2 * slower(batch, users));
                    records.push(Record::Served(served(batch, users, repeat, seconds)));
                }
            }
        }
        records
    }
}

fn latency(seconds: f64) -> Latency {
    Latency {
        p50: seconds,
        p99: 2.0 * seconds,
        ..Latency::default()
    }
}

fn native(batch: usize, repeat: usize, seconds: f64) -> Native {
    Native {
        batch,
        repeat,
        examples: EXAMPLES,
        seconds,
        items_per_s: EXAMPLES as f64 / seconds,
        latency_ms: latency(seconds),
        ..Native::default()
    }
}

fn served(batch: usize, concurrency: usize, repeat: usize, seconds: f64) -> Served {
    Served {
        batch,
        concurrency,
        rate: None,
        repeat,
        examples: EXAMPLES,
        requests: EXAMPLES / batch,
        seconds,
        items_per_s: EXAMPLES as f64 / seconds,
        requests_per_s: EXAMPLES as f64 / seconds / batch as f64,
        items_ok: EXAMPLES,
        latency_ms: Some(latency(seconds)),
        errors: Default::default(),
        server_peak_rss_bytes: None,
        client: None,
    }
}

/// A run a day, of which the last serves one batch size and concurrency slower by `loss`.
fn history(mut machine: Machine, runs: usize, loss: f64) -> (TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    for day in 0..runs {
        machine.sleep();
        let slower = |batch: usize, users: usize| match (day + 1 == runs, batch, users) {
            (true, 8, 64) => 1.0 / (1.0 - loss),
            _ => 1.0,
        };
        let run = Run {
            date: format!("2030-01-{:02}T03:04:05Z", day + 1),
            commit: Some(format!("abc{}", day / 4)),
            ..run("matrix")
        };
        let path = dir
            .path()
            .join(format!("2030-01-{:02}-box-2core-echo", day + 1));
        let mut folder = Folder::create(Some(&path), &run).unwrap();
        for record in machine.passes(&slower) {
            folder.append(&record).unwrap();
        }
    }
    let dirs = vec![dir.path().to_owned()];
    (dir, dirs)
}

const LOST: &str = "served, batch 8, 64 in flight: served / native";

/// In how many of these histories the planted loss of 8 % was found, and how many of the others' series were flagged.
fn found(seeds: std::ops::Range<u64>, noise: f64, disturbed: f64) -> (usize, usize) {
    let (mut found, mut flagged) = (0, 0);
    for seed in seeds {
        let (_dir, dirs) = history(Machine::new(seed, noise, disturbed), 12, 0.08);
        let regressions = History::read(&dirs, None).unwrap().regressions();
        let planted = regressions
            .iter()
            .filter(|found| found.contains(LOST))
            .count();
        found += planted;
        flagged += regressions.len() - planted;
    }
    (found, flagged)
}

#[test]
fn a_planted_loss_is_found_among_series_without_one() {
    // Each history has the lossy series and 19 others; a machine's own drift is four times the noise.
    let (found, flagged) = found(0..20, 0.01, 0.01);
    assert!(found >= 18, "{found} of 20 found");
    assert_eq!(flagged, 0, "of 380");
}

#[test]
fn twenty_series_without_a_loss_are_not_flagged() {
    for (noise, disturbed) in [(0.01, 0.0), (0.01, 0.02), (0.015, 0.02)] {
        for seed in 100..110 {
            let (_dir, dirs) = history(Machine::new(seed, noise, disturbed), 12, 0.0);
            let history = History::read(&dirs, None).unwrap();
            assert_eq!(history.judged().count(), 25);
            assert_eq!(
                history.regressions(),
                Vec::<String>::new(),
                "{noise} {disturbed} {seed}"
            );
        }
    }
}

#[test]
fn a_machine_full_of_neighbours_cries_wolf_seldom() {
    let (_, flagged) = found(200..220, 0.08, 0.05);
    assert!(flagged <= 380 / 50, "{flagged} of 380");
}

#[test]
fn a_machine_that_is_slow_today_only_warns() {
    let mut machine = Machine::new(7, 0.005, 0.0);
    let dir = tempfile::tempdir().unwrap();
    for day in 1..=8 {
        machine.today = if day == 8 { 0.8 } else { 1.0 };
        let run = Run {
            date: format!("2030-01-0{day}T03:04:05Z"),
            ..run("matrix")
        };
        let mut folder = Folder::create(Some(&dir.path().join(day.to_string())), &run).unwrap();
        for record in machine.passes(&|_, _| 1.0) {
            folder.append(&record).unwrap();
        }
    }
    let history = History::read(&[dir.path().to_owned()], None).unwrap();
    assert_eq!(history.regressions(), Vec::<String>::new());
    // Each of 25 series in items a second and p50, and in p99 where a hundred were timed.
    let warnings = history.warnings();
    assert!(warnings.len() >= 50, "{warnings:?}");
    assert!(
        warnings[0].contains("echo on box-2core, cpu, f32; native, batch 1: items/s is 0."),
        "{}",
        warnings[0]
    );
    assert!(history.terminal().contains("No regression."));
}

#[test]
fn the_report_has_series_versions_costs_and_plots() {
    let (dir, dirs) = history(Machine::new(1, 0.005, 0.0), 8, 0.2);
    let prices = dir.path().join("prices.toml");
    fs::write(
        &prices,
        "[[machine]]\nname = \"small\"\nmatches = \"box-*\"\nper_hour = 0.36\ncurrency = \"EUR\"\ndate = 2030-01-01\n",
    )
    .unwrap();
    let history = History::read(&dirs, Some(&prices)).unwrap();
    history.write(dir.path()).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let markdown = read("history.md");
    for said in [
        "8 runs in 8 folders, 2030-01-01 to 2030-01-08.",
        "- regressions: **1**, ratios of one sitting",
        "### echo on box-2core, cpu, f32",
        "| by version | version | since | runs |",
        "| native, batch 1 | 0.1.0 (abc1) | 2030-01-05 | 4 |",
        "| box-2core | small | 0.360 EUR | 2030-01-01 |",
    ] {
        assert!(markdown.contains(said), "{said} is not in {markdown}");
    }
    let page = read("history.html");
    // 25 lines of throughput and of p50, 20 of ratios; of p99, those with a hundred latencies.
    assert!(page.matches("<figure>").count() >= 4 + 4 + 3, "{page}");
    let json: Value = serde_json::from_str(&read("history.json")).unwrap();
    let series = json["series"].as_array().unwrap();
    assert_eq!(series.len(), 25);
    assert_eq!(json["regressions"].as_array().unwrap().len(), 1);
    let lost = series
        .iter()
        .find(|one| one["mode"] == "served, batch 8, 64 in flight")
        .unwrap();
    assert_eq!(lost["judged"]["over_native"]["verdict"], "worse");
    let rate = lost["points"][7]["items_per_s"]["median"].as_f64().unwrap();
    let cost = lost["cost_of_a_million"]["cost"].as_f64().unwrap();
    assert!((cost - 0.36 / 3600.0 / rate * 1e6).abs() < 1e-9);
    // What stands there now is no run.
    assert_eq!(History::read(&dirs, None).unwrap().runs, 8);
}

#[test]
fn folders_without_figures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = History::read(&[dir.path().to_owned()], None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("found none"), "{error}");
}

#[test]
fn the_results_of_this_repository_are_read() {
    let results = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results"));
    let history = History::read(&[results], None).unwrap();
    let of = |mode: &str| {
        history
            .series
            .iter()
            .filter(|series| series.mode.to_string().starts_with(mode))
            .count()
    };
    for mode in ["native", "served", "streamed", "model alone"] {
        assert!(of(mode) > 0, "{mode}");
    }
    // Ten starts in one folder, and figures of other frameworks beside galley's.
    assert!(history.judged().any(|series| series.points.len() == 10));
    assert!(
        history
            .passed_over
            .iter()
            .any(|what| what.contains("records of torch"))
    );
}
