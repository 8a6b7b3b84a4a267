// Lines and bars of the live figures.

import { bar, el } from "./dom.mjs";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 100;
const HEIGHT = 28;

/**
 * Draws a line over time into an `svg`: the newest value at the right edge, with room for `capacity` values.
 * Its number stands beside it, so that the line itself is decoration.
 */
export function line(svg, values, capacity) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const top = Math.max(1, ...values);
  const step = WIDTH / (capacity - 1);
  const x = (place) => (WIDTH - (values.length - 1 - place) * step).toFixed(2);
  const y = (value) => (HEIGHT - 1 - (value / top) * (HEIGHT - 3)).toFixed(2);
  const points = values.map((value, place) => `${x(place)},${y(value)}`);
  const floor = [`${WIDTH},${HEIGHT}`, `${x(0)},${HEIGHT}`];
  svg.replaceChildren(
    shape("polygon", "area", [...points, ...floor]),
    shape("polyline", "stroke", points),
  );
}

/** Fills a table with rows of `{ name, share, value }`, a bar each. */
export function rows(table, items) {
  const row = ({ name, share, value }) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, name),
      el("td", {}, bar(share), el("span", { class: "value" }, value)),
    );
  table.tBodies[0].replaceChildren(...items.map(row));
}

function shape(tag, name, points) {
  const element = document.createElementNS(SVG, tag);
  element.setAttribute("class", name);
  element.setAttribute("points", points.length > 1 ? points.join(" ") : "");
  return element;
}
