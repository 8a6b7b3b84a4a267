//! What follows from the figures: sentences that each name the figures that they follow from. Where nothing follows, there is none.

use super::rows::{Row, at, series};
use crate::report::{
    cells::{a_day, number},
    record::Agreement,
};

/// The share of the best throughput from which a smaller batch is as good.
const NEARLY: f64 = 0.95;
/// A ratio of throughputs that is told from 1.
const TELLING: f64 = 1.05;
/// Above this, repeats lie too far apart for small differences to be believed.
const RESTLESS: f64 = 0.1;
/// Above this part of the time, what is outside the model is worth a word.
const OUTSIDE: f64 = 0.25;
/// Below this share of equal labels, a dtype changes answers.
const SAME_LABELS: f64 = 0.99;

/// All sentences. `agreement` is of a place, as rows name it.
pub(super) fn advice(rows: &[Row], agreement: &[(String, &Agreement)]) -> Vec<String> {
    let mut sentences = Vec::new();
    sentences.extend(most_throughput(rows));
    sentences.extend(least_latency(rows));
    sentences.extend(series_to_use(rows).into_iter().filter_map(enough));
    sentences.extend(dtypes(rows, agreement));
    sentences.extend(devices(rows));
    sentences.extend(least_energy(rows));
    sentences.extend(series_to_use(rows).into_iter().filter_map(outside));
    sentences.extend(throttled(rows));
    sentences.extend(restless(rows));
    sentences
}

/// The row with the most items a second.
pub(super) fn fastest(rows: &[Row]) -> Option<&Row> {
    let rate = |row: &&Row| row.items_per_s.mean;
    rows.iter().max_by(|a, b| rate(a).total_cmp(&rate(b)))
}

/// The row whose batches take least, in the median.
pub(super) fn quickest(rows: &[Row]) -> Option<&Row> {
    rows.iter()
        .min_by(|a, b| a.latency.p50.total_cmp(&b.latency.p50))
}

/// The row that takes least energy for an item. Counters of a card and of a processor do not count the same, but each counts what
/// its device takes.
pub(super) fn thriftiest(rows: &[Row]) -> Option<&Row> {
    let energy = |row: &&Row| row.joules.unwrap_or(f64::INFINITY);
    let counted = rows.iter().filter(|row| row.joules.is_some());
    counted.min_by(|a, b| energy(a).total_cmp(&energy(b)))
}

/// The smallest batch of one series with nearly its best throughput.
pub(super) fn knee(series: &[Row]) -> Option<&Row> {
    let best = fastest(series)?.items_per_s.mean;
    series
        .iter()
        .find(|row| row.items_per_s.mean >= NEARLY * best)
}

fn here(row: &Row) -> String {
    format!("{} in {} at batch {}", row.place, row.dtype, row.batch)
}

fn most_throughput(rows: &[Row]) -> Option<String> {
    let best = fastest(rows)?;
    Some(format!(
        "For the most throughput: {}, {} items/s, which is {} a day; a batch takes {} ms (p50).",
        here(best),
        number(best.items_per_s.mean),
        a_day(best.items_per_s.mean),
        number(best.latency.p50),
    ))
}

fn least_latency(rows: &[Row]) -> Option<String> {
    let best = quickest(rows)?;
    let worst = best.percentile(99.0, best.latency.p99).map_or_else(
        || format!("{} ms at most", number(best.latency.max)),
        |p99| format!("p99 {} ms", number(p99)),
    );
    Some(format!(
        "For the least latency: {}, {} ms (p50; {worst}).",
        here(best),
        number(best.latency.p50),
    ))
}

/// Of each device, the series with the most throughput: the one that is worth advice.
fn series_to_use(rows: &[Row]) -> Vec<&[Row]> {
    let of_place = rows.chunk_by(|a, b| a.place == b.place);
    let best = |place| {
        let rate = |series: &&[Row]| fastest(series).map_or(0.0, |row| row.items_per_s.mean);
        series(place)
            .into_iter()
            .max_by(|a, b| rate(a).total_cmp(&rate(b)))
    };
    of_place.filter_map(best).collect()
}

/// Where larger batches stop paying.
fn enough(series: &[Row]) -> Option<String> {
    let (knee, best, last) = (knee(series)?, fastest(series)?, series.last()?);
    if series.len() < 2 {
        return None;
    }
    let device = format!("On {} in {},", knee.place, knee.dtype);
    if knee.batch == last.batch {
        return Some(format!(
            "{device} throughput still grows at batch {}, the largest that was tried: try larger ones.",
            last.batch,
        ));
    }
    if knee.batch == best.batch {
        return Some(format!(
            "{device} batch {} is enough: beyond it throughput does not grow, and a batch of {} takes {} ms instead of {}.",
            knee.batch,
            last.batch,
            number(last.latency.p50),
            number(knee.latency.p50),
        ));
    }
    Some(format!(
        "{device} batch {} is enough: it has {:.0} % of the best throughput (batch {}), and a batch takes {} ms instead of {}.",
        knee.batch,
        100.0 * knee.items_per_s.mean / best.items_per_s.mean,
        best.batch,
        number(knee.latency.p50),
        number(best.latency.p50),
    ))
}

/// Whether a dtype other than f32 pays, on each device where both are.
fn dtypes(rows: &[Row], agreement: &[(String, &Agreement)]) -> Vec<String> {
    let mut sentences = Vec::new();
    for place in rows.chunk_by(|a, b| a.place == b.place) {
        let all = series(place);
        let Some(exact) = all.iter().find(|series| series[0].dtype == "f32") else {
            continue;
        };
        for other in all.iter().filter(|series| series[0].dtype != "f32") {
            let Some((least, most)) = speed_ups(other, exact) else {
                continue;
            };
            let (place, dtype) = (&other[0].place, &other[0].dtype);
            let ratio = range(least, most);
            let answers = agreement
                .iter()
                .find(|(of, figure)| of == place && figure.dtype == *dtype)
                .map(|(_, figure)| answers(figure));
            let answers =
                answers.unwrap_or_else(|| "what it does to answers was not measured".into());
            sentences.push(if most < TELLING {
                format!("On {place}, {dtype} is no faster than f32 ({ratio} times its throughput): stay with f32.")
            } else {
                format!("On {place}, {dtype} has {ratio} times the throughput of f32; {answers}.")
            });
        }
    }
    sentences
}

fn answers(figure: &Agreement) -> String {
    let share = figure.agreeing_labels as f64 / figure.labels.max(1) as f64;
    let verdict = if share < SAME_LABELS {
        "which changes answers"
    } else {
        "so that answers stay"
    };
    let score = figure
        .largest_score_difference
        .map_or_else(String::new, |difference| {
            format!(" and scores within {}", number(difference))
        });
    format!(
        "{:.2} % of labels are those of f32{score}, {verdict}",
        100.0 * share
    )
}

/// The least and the most ratio of throughputs over the batch sizes that both have.
pub(super) fn speed_ups(of: &[Row], over: &[Row]) -> Option<(f64, f64)> {
    let ratio = |row: &Row| Some(row.items_per_s.mean / at(over, row.batch)?.items_per_s.mean);
    let ratios: Vec<f64> = of
        .iter()
        .filter_map(ratio)
        .filter(|ratio| ratio.is_finite())
        .collect();
    let least = ratios.iter().copied().reduce(f64::min)?;
    let most = ratios.iter().copied().reduce(f64::max)?;
    Some((least, most))
}

fn range(least: f64, most: f64) -> String {
    let (least, most) = (format!("{least:.2}"), format!("{most:.2}"));
    if least == most {
        least
    } else {
        format!("{least} to {most}")
    }
}

/// How far the slower device suffices.
fn devices(rows: &[Row]) -> Option<String> {
    let best = |place: &[Row]| fastest(place).cloned();
    let mut places: Vec<Row> = rows
        .chunk_by(|a, b| a.place == b.place)
        .filter_map(best)
        .collect();
    places.sort_by(|a, b| b.items_per_s.mean.total_cmp(&a.items_per_s.mean));
    let (fast, slow) = (places.first()?, places.last()?);
    let ratio = fast.items_per_s.mean / slow.items_per_s.mean;
    (places.len() > 1 && ratio >= TELLING).then(|| {
        format!(
            "Each at its best, {} has {ratio:.1} times the throughput of {}, which suffices up to {} items a day.",
            fast.place,
            slow.place,
            a_day(slow.items_per_s.mean),
        )
    })
}

fn least_energy(rows: &[Row]) -> Option<String> {
    let best = thriftiest(rows)?;
    let most = rows.iter().filter_map(|row| row.joules).reduce(f64::max)?;
    Some(format!(
        "For the least energy: {}, {} J an item, or {} kWh for a million; the most was {} J an item.",
        here(best),
        number(best.joules?),
        number(best.joules? * 1e6 / 3.6e6),
        number(most),
    ))
}

/// Where reading inputs takes so much that the model is not what to look at.
fn outside(series: &[Row]) -> Option<String> {
    let row = fastest(series)?;
    let share = row.outside_model();
    (share > OUTSIDE).then(|| {
        format!(
            "On {} in {} at batch {}, {:.0} % of the time goes to reading inputs and making answers, on the processor: `galley serve` \
             does that while the device works on another batch, and more cores help.",
            row.place,
            row.dtype,
            row.batch,
            100.0 * share,
        )
    })
}

fn throttled(rows: &[Row]) -> Option<String> {
    let held: Vec<&Row> = rows
        .iter()
        .filter(|row| !row.throttled.is_empty())
        .collect();
    let first = held.first()?;
    Some(format!(
        "Clocks were held down in {} of {} configurations (first {}: {}): such figures are those of a card at its limit.",
        held.len(),
        rows.len(),
        here(first),
        first.throttled.join(", "),
    ))
}

fn restless(rows: &[Row]) -> Option<String> {
    let worst = rows
        .iter()
        .max_by(|a, b| a.items_per_s.spread.total_cmp(&b.items_per_s.spread))?;
    (worst.items_per_s.spread > RESTLESS).then(|| {
        format!(
            "Repeats differ by up to ±{:.0} % ({}): differences smaller than that say nothing. Measure again on a quiet machine.",
            100.0 * worst.items_per_s.spread,
            here(worst),
        )
    })
}
