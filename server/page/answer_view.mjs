// Answers as elements, one way of drawing for each kind.

import { countKinds, cut, entityKind, kindOf } from "./answers.mjs";
import { bar, el } from "./dom.mjs";
import { number, percent } from "./format.mjs";

/** Colours there are for kinds of entities; with more kinds they come again, and the kind's name tells them apart. */
const HUES = 8;

const DRAW = { classes, entities, sentences, label, nothing, error, json };

/** A prediction as an element. `text` is what was asked, which entities are shown in. */
export const draw = (prediction, text) => DRAW[kindOf(prediction)](prediction, text);

function classes(prediction) {
  return scoreTable(
    "Class",
    prediction.map(({ class: name, score }) => [name, score]),
  );
}

function label(prediction) {
  return el(
    "div",
    {},
    el("p", { class: "label" }, prediction.label, " ", el("span", { class: "muted" }, percent(prediction.score))),
    scoreTable("Label", prediction.scores),
  );
}

function scoreTable(heading, rows) {
  const row = ([name, score], place) =>
    el(
      "tr",
      { class: place === 0 ? "best" : null },
      el("th", { scope: "row" }, name),
      el("td", {}, bar(score), el("span", { class: "value" }, percent(score))),
    );
  return el(
    "table",
    { class: "bars scores" },
    head([heading, "Score"], true),
    el("tbody", {}, ...rows.map(row)),
  );
}

function sentences(prediction) {
  return el("ol", { class: "sentences" }, ...prediction.map((sentence) => el("li", {}, sentence)));
}

function entities(prediction, text) {
  const kinds = countKinds(prediction);
  const hues = new Map([...kinds.keys()].map((kind, place) => [kind, `hue-${place % HUES}`]));
  const hueOf = (entity) => hues.get(entityKind(entity));
  const marked = cut(text, prediction).map(({ text: piece, entity }) =>
    entity
      ? el(
          "mark",
          { class: `entity ${hueOf(entity)}` },
          piece,
          el("span", { class: "kind" }, entityKind(entity)),
        )
      : piece,
  );
  const legend = [...kinds].map(([kind, count]) =>
    el(
      "li",
      {},
      el("span", { class: `swatch ${hues.get(kind)}`, "aria-hidden": "true" }),
      kind,
      el("span", { class: "muted" }, ` ${number(count)}`),
    ),
  );
  const row = (entity) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, entity.word),
      el("td", {}, el("span", { class: `swatch ${hueOf(entity)}`, "aria-hidden": "true" }), entityKind(entity)),
      el("td", { class: "value" }, percent(entity.score)),
    );
  return el(
    "div",
    {},
    el("p", { class: "marked" }, ...marked),
    el("ul", { class: "legend", "aria-label": "Kinds of entities" }, ...legend),
    el(
      "details",
      {},
      el("summary", {}, "Entities with their scores"),
      el("table", { class: "plain" }, head(["Entity", "Kind", "Score"], false), el("tbody", {}, ...prediction.map(row))),
    ),
  );
}

function nothing() {
  return el("p", {}, "Nothing was found in it: the answer is an empty list.");
}

function error(prediction) {
  return el("p", { class: "problem" }, prediction.error);
}

function json(prediction) {
  return el(
    "pre",
    { tabindex: "0", role: "region", "aria-label": "The value" },
    JSON.stringify(prediction, null, 2),
  );
}

/** A table's head; `hidden` from sight where the columns speak for themselves. */
function head(columns, hidden) {
  return el(
    "thead",
    { class: hidden ? "visually-hidden" : null },
    el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name))),
  );
}
