// What axe has to say of a page.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** Fails where a rule is broken; `where` says what was looked at. */
export async function assertNoViolations(page, where) {
  // Evaluated and not added as a script, which the page's policy would rightly refuse.
  await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(
    (values) => globalThis.axe.run({ runOnly: { type: "tag", values } }),
    RULES,
  );
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  assert.deepEqual(found, [], where);
  assert.ok(passes.some(({ id }) => id === "color-contrast"), "contrast was looked at");
}
