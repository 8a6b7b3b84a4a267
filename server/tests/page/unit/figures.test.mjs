import assert from "node:assert/strict";
import { test } from "node:test";

import { between, named, observations, quantile, rate, snapshot } from "../../../page/figures.mjs";
import { parse } from "../../../page/prometheus.mjs";

const POLL = parse(`
galley_requests_total{recipe="a",protocol="fastdeploy",outcome="ok"} 10
galley_requests_total{recipe="a",protocol="fastdeploy",outcome="partial"} 2
galley_requests_total{recipe="a",protocol="fastdeploy",outcome="bad_request"} 3
galley_requests_total{recipe="a",protocol="fastdeploy",outcome="queue_full"} 4
galley_requests_total{recipe="a",protocol="probe",outcome="ok"} 1000
galley_requests_total{recipe="b",protocol="fastdeploy",outcome="ok"} 100
galley_items_total{recipe="a"} 20
galley_items_total{recipe="b"} 300
galley_queue_depth{recipe="a"} 5
galley_queue_depth{recipe="b"} 6
galley_in_flight{recipe="b"} 7
galley_request_duration_seconds_bucket{recipe="a",outcome="queue_full",le="0.1"} 4
galley_request_duration_seconds_bucket{recipe="a",outcome="queue_full",le="1"} 4
galley_request_duration_seconds_bucket{recipe="a",outcome="queue_full",le="+Inf"} 4
galley_request_duration_seconds_bucket{recipe="a",outcome="bad_request",le="0.1"} 3
galley_request_duration_seconds_bucket{recipe="a",outcome="bad_request",le="1"} 3
galley_request_duration_seconds_bucket{recipe="a",outcome="bad_request",le="+Inf"} 3
galley_request_duration_seconds_bucket{recipe="a",outcome="ok",le="0.1"} 0
galley_request_duration_seconds_bucket{recipe="a",outcome="ok",le="1"} 9
galley_request_duration_seconds_bucket{recipe="a",outcome="ok",le="+Inf"} 10
galley_request_duration_seconds_bucket{recipe="a",outcome="partial",le="0.1"} 0
galley_request_duration_seconds_bucket{recipe="a",outcome="partial",le="1"} 2
galley_request_duration_seconds_bucket{recipe="a",outcome="partial",le="+Inf"} 2
galley_batch_size_bucket{recipe="a",le="1"} 1
galley_batch_size_bucket{recipe="a",le="2"} 1
galley_batch_size_bucket{recipe="a",le="4"} 4
galley_batch_size_bucket{recipe="a",le="+Inf"} 4
galley_batch_size_bucket{recipe="b",le="1"} 10
galley_batch_size_bucket{recipe="b",le="2"} 12
galley_batch_size_bucket{recipe="b",le="4"} 12
galley_batch_size_bucket{recipe="b",le="+Inf"} 13
`);

const counts = (buckets) => buckets.map(({ count }) => count);

test("a poll is summed up for one recipe", () => {
  const seen = snapshot(POLL, "a", 0);
  assert.equal(seen.requests, 19, "without those of probes");
  assert.deepEqual([seen.answered, seen.failed, seen.refused], [12, 4, 3]);
  assert.deepEqual([seen.items, seen.queueDepth, seen.inFlight], [20, 5, 0]);
  assert.deepEqual(counts(seen.batchSizes), [1, 0, 3, 0]);
  assert.deepEqual(counts(seen.durations), [0, 11, 1], "of those that were answered");
  assert.equal(quantile(seen.durations, 0.5).toFixed(2), "0.59", "and not of refusals in microseconds");
});

test("a poll is summed up for all recipes together", () => {
  const seen = snapshot(POLL, null, 0);
  assert.deepEqual([seen.requests, seen.items, seen.queueDepth, seen.inFlight], [119, 320, 11, 7]);
  assert.deepEqual(counts(seen.durations), [0, 11, 1]);
  assert.deepEqual(counts(seen.batchSizes), [11, 2, 3, 1]);
});

test("rates are differences over the time between two polls", () => {
  assert.equal(rate({ at: 1000, items: 10 }, { at: 3000, items: 50 }, "items"), 20);
  assert.equal(rate({ at: 0, items: 10 }, { at: 1000, items: 10 }, "items"), 0);
  assert.equal(rate({ at: 0, items: 900 }, { at: 1000, items: 5 }, "items"), 5, "a restart");
  assert.equal(rate({ at: 0, items: 1 }, { at: 0, items: 2 }, "items"), null);
});

const buckets = (...pairs) => pairs.map(([bound, count]) => ({ bound, count }));

test("histograms are subtracted bucket by bucket", () => {
  const earlier = buckets([1, 2], [2, 5], [Infinity, 0]);
  const later = buckets([1, 2], [2, 8], [Infinity, 1]);
  assert.deepEqual(counts(between(earlier, later)), [0, 3, 1]);
  assert.deepEqual(between([], later), later, "what was not there before counts in full");
  assert.equal(observations(later), 11);
});

test("quantiles are interpolated within their bucket", () => {
  const spread = buckets([1, 50], [2, 40], [4, 10], [Infinity, 0]);
  assert.equal(quantile(spread, 0.25), 0.5);
  assert.equal(quantile(spread, 0.5), 1);
  assert.equal(quantile(spread, 0.7), 1.5);
  assert.equal(quantile(spread, 0.95), 3);
  assert.equal(quantile(spread, 1), 4);
});

test("quantiles know their limits", () => {
  assert.equal(quantile([], 0.5), null);
  assert.equal(quantile(buckets([1, 0], [Infinity, 0]), 0.5), null);
  assert.equal(quantile(buckets([1, 0], [60, 0], [Infinity, 3]), 0.5), 60, "the last finite bound");
  assert.equal(quantile(buckets([1, 0], [2, 0], [4, 2], [Infinity, 0]), 0.5), 3, "empty ones first");
});

test("buckets of sizes are named, up to the last that counts", () => {
  const sizes = buckets([1, 3], [2, 0], [4, 5], [8, 1], [16, 0], [Infinity, 0]);
  assert.deepEqual(
    named(sizes).map(({ name }) => name),
    ["1", "2", "3–4", "5–8"],
  );
  assert.equal(named(buckets([1024, 0], [Infinity, 1])).at(-1).name, "over 1024");
  assert.deepEqual(named(buckets([1, 0], [Infinity, 0])), []);
});
