// What an answer is, told by its shape and not by the recipe's name: the page knows no recipe. Pure functions.

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isScored = (value) => isObject(value) && typeof value.score === "number";
const isClass = (value) => isScored(value) && typeof value.class === "string";
const isEntity = (value) =>
  isScored(value) && Number.isInteger(value.start) && Number.isInteger(value.end);
const isLabel = (value) =>
  isScored(value) && typeof value.label === "string" && Array.isArray(value.scores);

/** `error`, `classes`, `entities`, `sentences`, `label`, `nothing` (an empty list), or `json` for all else. */
export function kindOf(prediction) {
  if (Array.isArray(prediction)) {
    const all = (test) => prediction.every(test);
    if (prediction.length === 0) {
      return "nothing";
    }
    if (all(isClass)) {
      return "classes";
    }
    if (all(isEntity)) {
      return "entities";
    }
    return all((value) => typeof value === "string") ? "sentences" : "json";
  }
  if (isLabel(prediction)) {
    return "label";
  }
  const isError =
    isObject(prediction) &&
    Object.keys(prediction).length === 1 &&
    typeof prediction.error === "string";
  return isError ? "error" : "json";
}

/** What kind of entity it is: its group or, where tokens are not grouped, its token's label. */
export const entityKind = (entity) => entity.entity_group ?? entity.entity ?? "entity";

/** The kinds of these entities, in the order in which they come up, with their numbers: `Map { "CITY" => 2 }`. */
export function countKinds(entities) {
  const kinds = new Map();
  for (const entity of entities) {
    const kind = entityKind(entity);
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
  }
  return kinds;
}

/**
 * A text cut at its entities: `[{ text: "I am " }, { text: "Jo", entity }, ...]`. Their offsets count code points, not
 * JavaScript's UTF-16 units. An entity that begins within the one before is left out.
 */
export function cut(text, entities) {
  const points = Array.from(text);
  const slice = (start, end) => points.slice(start, end).join("");
  const pieces = [];
  let at = 0;
  for (const entity of [...entities].sort((a, b) => a.start - b.start)) {
    if (entity.start < at || entity.end <= entity.start) {
      continue;
    }
    if (entity.start > at) {
      pieces.push({ text: slice(at, entity.start) });
    }
    pieces.push({ text: slice(entity.start, entity.end), entity });
    at = entity.end;
  }
  if (at < points.length) {
    pieces.push({ text: slice(at) });
  }
  return pieces;
}

/** The text of an input: itself, or the `text` of an object that carries options beside it. */
export const textOf = (input) => (typeof input === "string" ? input : (input?.text ?? ""));

/** An answer in a few words, for who hears the page. */
export function inWords(prediction) {
  const some = (count, one, many) => `${count} ${count === 1 ? one : many}`;
  switch (kindOf(prediction)) {
    case "classes":
      return `most likely ${prediction[0].class}`;
    case "entities":
      return some(prediction.length, "entity", "entities");
    case "sentences":
      return some(prediction.length, "sentence", "sentences");
    case "label":
      return prediction.label;
    case "nothing":
      return "nothing was found";
    default:
      return "";
  }
}
