import assert from "node:assert/strict";
import { test } from "node:test";

import { parse } from "../../../page/prometheus.mjs";

test("samples are read with their labels and values", () => {
  const metrics = parse(`# HELP galley_queue_depth Items admitted that no batch has taken yet.
# TYPE galley_queue_depth gauge
galley_queue_depth{recipe="echo"} 3
galley_queue_depth{recipe="transformers_ner"} 0

galley_requests_total{recipe="echo",protocol="fastdeploy",outcome="ok"} 401
up 1 1700000000000
`);
  assert.deepEqual(metrics.get("galley_queue_depth"), [
    { labels: { recipe: "echo" }, value: 3 },
    { labels: { recipe: "transformers_ner" }, value: 0 },
  ]);
  assert.deepEqual(metrics.get("galley_requests_total"), [
    { labels: { recipe: "echo", protocol: "fastdeploy", outcome: "ok" }, value: 401 },
  ]);
  assert.deepEqual(metrics.get("up"), [{ labels: {}, value: 1 }]);
  assert.equal(metrics.size, 3);
});

test("numbers are read in every form that the format has", () => {
  const values = parse("a 1e-4\na +Inf\na -Inf\na NaN\na 0.5\na -2").get("a");
  assert.deepEqual(
    values.map(({ value }) => value),
    [1e-4, Infinity, -Infinity, NaN, 0.5, -2],
  );
});

test("label values may hold anything, escaped", () => {
  const text = String.raw`a{x="one \"two\" \\ three",y="line\nbreak",z="} 7, b=\"c\"", } 5`;
  assert.deepEqual(parse(text).get("a"), [
    {
      labels: { x: 'one "two" \\ three', y: "line\nbreak", z: '} 7, b="c"' },
      value: 5,
    },
  ]);
});

test("what is no sample is passed over, and the rest is read", () => {
  const metrics = parse('\n{x="1"} 2\nbroken{x=1} 2\nbroken{x="1" 2\n9a 1\nlonely\r\ngood 1\r\n');
  assert.deepEqual([...metrics.keys()], ["good"]);
});
