// Reads Prometheus' text format (0.0.4).

// A sample: a name, perhaps labels in braces, a value, perhaps a timestamp.
const SAMPLE = /^([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s+(\S+)(?:\s+-?\d+)?$/;
const LABEL = /\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)/gy;
const ESCAPES = { n: "\n", "\\": "\\", '"': '"' };

/**
 * Every sample by its name: `Map { "galley_queue_depth" => [{ labels: { recipe: "echo" }, value: 0 }] }`.
 * Lines that are no samples (comments, and anything unknown) are passed over.
 */
export function parse(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const sample = line.startsWith("#") ? null : SAMPLE.exec(line.trim());
    const labels = sample && readLabels(sample[2] ?? "");
    if (!labels) {
      continue;
    }
    const [, name, , value] = sample;
    if (!metrics.has(name)) {
      metrics.set(name, []);
    }
    metrics.get(name).push({ labels, value: readNumber(value) });
  }
  return metrics;
}

/** A number as Prometheus writes it; `NaN` for what is none. */
export function readNumber(text) {
  return { "+Inf": Infinity, Inf: Infinity, "-Inf": -Infinity }[text] ?? Number(text);
}

/** The labels between the braces, or null if they cannot be read to their end. */
function readLabels(text) {
  const labels = {};
  let end = 0;
  LABEL.lastIndex = 0;
  for (let match = LABEL.exec(text); match; match = LABEL.exec(text)) {
    labels[match[1]] = match[2].replace(/\\(.)/g, (whole, escaped) => ESCAPES[escaped] ?? whole);
    end = LABEL.lastIndex;
  }
  return text.slice(end).trim() === "" ? labels : null;
}
