import assert from "node:assert/strict";
import { test } from "node:test";

import { countKinds, cut, inWords, kindOf, textOf } from "../../../page/answers.mjs";
import { bytes, duration, number, percent } from "../../../page/format.mjs";

const entity = (start, end, entity_group = "CITY") => ({ start, end, entity_group, score: 0.9 });

test("an answer's kind is told by its shape", () => {
  for (const [prediction, kind] of [
    [[{ class: "espresso", class_id: 967, score: 0.9 }], "classes"],
    [[entity(0, 2)], "entities"],
    [[{ entity: "B-PER", index: 1, word: "Jo", start: 0, end: 2, score: 1 }], "entities"],
    [["One.", "Two."], "sentences"],
    [{ label: "POSITIVE", score: 0.9, scores: [["POSITIVE", 0.9]] }, "label"],
    [[], "nothing"],
    [{ error: "not an image" }, "error"],
    ["hello", "json"],
    [null, "json"],
    [17, "json"],
    [["a", 1], "json"],
    [[{ class: "x" }], "json"],
    [{ error: "a field of its own", more: 1 }, "json"],
    [{ label: "x" }, "json"],
  ]) {
    assert.equal(kindOf(prediction), kind, JSON.stringify(prediction));
  }
});

test("a text is cut at its entities, whose offsets count code points", () => {
  const text = "🙂 Jo, 東京!";
  const pieces = cut(text, [entity(6, 8), entity(2, 4, "NAME")]);
  assert.deepEqual(
    pieces.map(({ text: piece, entity: marked }) => [piece, marked?.entity_group]),
    [["🙂 ", undefined], ["Jo", "NAME"], [", ", undefined], ["東京", "CITY"], ["!", undefined]],
  );
  assert.equal(pieces.map(({ text: piece }) => piece).join(""), text);
});

test("entities that overlap or are empty cost nothing of the text", () => {
  const text = "abcdef";
  for (const entities of [
    [],
    [entity(0, 6)],
    [entity(1, 4), entity(2, 5)],
    [entity(3, 3)],
    [entity(4, 99)],
  ]) {
    const whole = cut(text, entities).map(({ text: piece }) => piece);
    assert.equal(whole.join(""), text, JSON.stringify(entities));
  }
  assert.deepEqual(cut("", []), []);
});

test("kinds are counted in the order in which they come up", () => {
  const kinds = countKinds([entity(0, 1), entity(1, 2, "NAME"), entity(2, 3)]);
  assert.deepEqual([...kinds], [["CITY", 2], ["NAME", 1]]);
});

test("an input's text is itself, or the text within it", () => {
  assert.equal(textOf("a"), "a");
  assert.equal(textOf({ text: "b", aggregation: "none" }), "b");
  assert.equal(textOf(null), "");
});

test("answers are told in a few words", () => {
  assert.equal(inWords([entity(0, 1)]), "1 entity");
  assert.equal(inWords(["a", "b"]), "2 sentences");
  assert.equal(inWords([{ class: "espresso", score: 1 }]), "most likely espresso");
  assert.equal(inWords({ any: "JSON" }), "");
});

test("numbers are written as people read them", () => {
  assert.deepEqual([0, 0.1234, 57.3, 1234.5].map(number), ["0", "0.123", "57.3", "1,235"]);
  assert.deepEqual([154e-6, 0.01234, 1.5, 60].map(duration), ["154 µs", "12.3 ms", "1.5 s", "60 s"]);
  assert.deepEqual([0.99999, 0.9282, 0, 1].map(percent), ["99.9 %", "92.8 %", "0.0 %", "100.0 %"]);
  assert.deepEqual([12, 46457, 1.5e6].map(bytes), ["12 bytes", "46.5 KB", "1.5 MB"]);
});
