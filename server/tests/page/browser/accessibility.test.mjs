// For everyone: by keyboard, in both themes, on a narrow screen, and by axe's rules.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { assertNoViolations } from "./axe.mjs";
import { startGalley, startProxy } from "./servers.mjs";
import { answered, choose, launch, visit } from "./visit.mjs";

let browser;
let galley;

before(async () => {
  // One after the other: where the second fails, `after` knows the first and ends it.
  galley = await startGalley();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await galley?.stop();
});

const visitPage = (options, steps) => visit(browser, `${galley.url}/`, options, steps);

/** An answer of each kind on the page, in turn. */
async function eachAnswer(page, see) {
  for (const recipe of ["efficientnet_lite0", "deepsegment_en", "transformers_ner", "echo"]) {
    await choose(page, recipe);
    await page.locator(".sample").first().click();
    await answered(page);
    for (const details of await page.locator("#answer summary").all()) {
      await details.click();
    }
    await see(recipe);
  }
}

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing in the ${colorScheme} theme`, () =>
    visitPage({ colorScheme }, (page) =>
      eachAnswer(page, (recipe) => assertNoViolations(page, recipe)),
    ));
}

test("axe finds nothing where there are problems to show", async () => {
  const proxy = await startProxy(galley.url, { key: "secret" });
  try {
    await visit(browser, `${proxy.url}/`, {}, async (page) => {
      await page.getByRole("form", { name: /API key/ }).waitFor();
      await assertNoViolations(page, "the key's form");
      proxy.state.down = true;
      await page.getByLabel("API key", { exact: true }).fill("any");
      await page.keyboard.press("Enter");
      await page.locator("#list-problem").waitFor();
      await assertNoViolations(page, "unreachable");
    });
  } finally {
    await proxy.stop();
  }
});

test("a narrow screen scrolls in one direction only", () =>
  visitPage({ viewport: { width: 320, height: 640 } }, async (page) => {
    await eachAnswer(page, async (recipe) => {
      const over = await page.evaluate(
        () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
      );
      assert.equal(over, 0, recipe);
    });
    await assertNoViolations(page, "narrow");
  }));

test("the theme follows the system until one is chosen, which is remembered", () =>
  visitPage({ colorScheme: "dark" }, async (page) => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const button = page.getByRole("button", { name: "Dark theme" });
    const dark = await ground();
    assert.equal(await button.getAttribute("aria-pressed"), "true");
    await page.emulateMedia({ colorScheme: "light" });
    const light = await ground();
    assert.notEqual(light, dark);
    // Told at the next frame.
    await page.locator('#theme[aria-pressed="false"]').waitFor();

    await button.click();
    assert.equal(await ground(), dark);
    await page.reload();
    assert.equal(await ground(), dark, "though the system is light");
    assert.equal(await button.getAttribute("aria-pressed"), "true");
    await button.click();
    assert.equal(await ground(), light);
  }));

/** What has the focus, by its id or its text, and whether it shows. */
const focused = (page) =>
  page.evaluate(() => {
    const element = document.activeElement;
    // A hidden input's ring is drawn around the label that stands for it.
    const shown = element.id === "file" ? element.nextElementSibling : element.closest(".recipe") ?? element;
    const style = getComputedStyle(shown);
    const ring = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
    return { name: element.id || element.value || element.textContent, ring };
  });

test("everything can be reached and used by keyboard, and shows where the focus is", () =>
  visitPage({}, async (page) => {
    await page.locator("#ask").waitFor();
    const walk = [];
    for (let steps = 0; steps < 11; steps += 1) {
      await page.keyboard.press("Tab");
      const { name, ring } = await focused(page);
      assert.ok(ring, `${name} shows that it has the focus`);
      walk.push(name);
    }
    assert.deepEqual(walk, [
      "Skip to the recipes",
      "theme",
      "efficientnet_lite0",
      "file",
      "run",
      "Example image",
      "live-of",
      "pause",
      "Recipes as JSON",
      "Metrics",
      "Health",
    ]);
  }));

test("a recipe is chosen, a text typed and run without a mouse", () =>
  visitPage({}, async (page) => {
    await page.locator("#ask").waitFor();
    await page.getByRole("radio", { name: "efficientnet_lite0" }).focus();
    await page.keyboard.press("ArrowDown");
    await page.getByRole("heading", { name: "deepsegment_en" }).waitFor();
    assert.equal((await focused(page)).name, "deepsegment_en");
    await page.keyboard.press("Tab");
    assert.equal((await focused(page)).name, "text");
    await page.keyboard.press("Control+A");
    await page.keyboard.type("i was hungry i ordered a pizza and i went to the movies");
    await page.keyboard.press("Control+Enter");
    await answered(page);
    assert.equal(await page.locator(".sentences li").count(), 2);
    // What a screen reader reads out by itself.
    assert.equal(await page.getByRole("status").filter({ hasText: "2 sentences" }).count(), 1);
  }));

test("the skip link leads to the recipes", () =>
  visitPage({}, async (page) => {
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    assert.equal((await focused(page)).name, "try");
  }));
