// What is shown, out of polls of /metrics: gauges as they are, and rates, percentiles and histograms from the difference
// of two polls. Pure functions, tested without a browser.

import { readNumber } from "./prometheus.mjs";

/** Outcomes of requests that were answered, in whole or in part. */
const ANSWERED = new Set(["ok", "partial"]);
/** Outcomes that are the server's fault or its overload; the rest are the callers'. */
const FAILED = new Set(["failed", "timeout", "unavailable", "queue_full"]);

/**
 * One poll, of one recipe or, with null, of all together.
 * @param metrics what `parse` gives
 * @param at when it was taken, in milliseconds
 */
export function snapshot(metrics, recipe, at) {
  const of = (name) =>
    (metrics.get(name) ?? []).filter(({ labels }) => recipe === null || labels.recipe === recipe);
  // The server asks itself, too; that is nobody's request.
  const requests = of("galley_requests_total").filter(({ labels }) => labels.protocol !== "probe");
  const ended = (outcomes) => sum(requests.filter(({ labels }) => outcomes.has(labels.outcome)));
  const total = sum(requests);
  const answered = ended(ANSWERED);
  const failed = ended(FAILED);
  return {
    at,
    items: sum(of("galley_items_total")),
    requests: total,
    answered,
    failed,
    refused: total - answered - failed,
    queueDepth: sum(of("galley_queue_depth")),
    inFlight: sum(of("galley_in_flight")),
    // Refusals take microseconds, and would hide what those wait who are answered.
    durations: histogram(
      of("galley_request_duration_seconds_bucket").filter(({ labels }) => ANSWERED.has(labels.outcome)),
    ),
    batchSizes: histogram(of("galley_batch_size_bucket")),
  };
}

/** By how much a counter grew a second between two snapshots; null without time between them. */
export function rate(earlier, later, counter) {
  const seconds = (later.at - earlier.at) / 1000;
  return seconds > 0 ? grown(earlier[counter], later[counter]) / seconds : null;
}

/** What a histogram counted between two snapshots. */
export function between(earlier, later) {
  return later.map(({ bound, count }, place) => ({
    bound,
    count: earlier[place]?.bound === bound ? grown(earlier[place].count, count) : count,
  }));
}

/** How many observations a histogram has. */
export const observations = (buckets) => buckets.reduce((sum, { count }) => sum + count, 0);

/**
 * A quantile by linear interpolation within its bucket, as Prometheus' `histogram_quantile` estimates it; the last finite
 * bound where it lies beyond that, and null without observations.
 */
export function quantile(buckets, q) {
  const wanted = q * observations(buckets);
  if (wanted === 0) {
    return null;
  }
  let below = 0;
  let lower = 0;
  for (const { bound, count } of buckets) {
    if (count > 0 && below + count >= wanted) {
      return bound === Infinity ? lower : lower + ((bound - lower) * (wanted - below)) / count;
    }
    below += count;
    lower = bound === Infinity ? lower : bound;
  }
  return lower;
}

/** Buckets of whole numbers with names, up to the last that counts anything: `1`, `2`, `3–4`, `5–8`, `over 1024`. */
export function named(buckets) {
  const last = buckets.findLastIndex(({ count }) => count > 0);
  return buckets.slice(0, last + 1).map(({ bound, count }, place) => {
    const from = place === 0 ? 1 : buckets[place - 1].bound + 1;
    if (bound === Infinity) {
      return { name: `over ${from - 1}`, count };
    }
    return { name: from >= bound ? `${bound}` : `${from}–${bound}`, count };
  });
}

/** Cumulative `le` series of one or several recipes as buckets of their own: `[{ bound, count }]` by rising bound. */
function histogram(series) {
  const cumulative = new Map();
  for (const { labels, value } of series) {
    const bound = readNumber(labels.le);
    cumulative.set(bound, (cumulative.get(bound) ?? 0) + value);
  }
  let below = 0;
  return [...cumulative]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([bound, upTo]) => {
      const count = Math.max(0, upTo - below);
      below = upTo;
      return { bound, count };
    });
}

/** A counter that is lower than before began anew: the server was started again. */
const grown = (earlier, later) => (later >= earlier ? later - earlier : later);

const sum = (samples) => samples.reduce((total, { value }) => total + value, 0);
