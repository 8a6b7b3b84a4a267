// The live figures and the server's state.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { startGalley, startProxy } from "./servers.mjs";
import { launch, visit } from "./visit.mjs";

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

const ask = (recipe, items) =>
  fetch(`${galley.url}/recipes/${recipe}/infer`, { method: "POST", body: JSON.stringify(items) });

/** Keeps whatever figures show from here on, for a rate that is not zero may be one for a single second. */
const record = (page, ids) =>
  page.evaluate((ids) => {
    globalThis.shown = {};
    for (const id of ids) {
      const element = document.getElementById(id);
      const values = (globalThis.shown[id] = []);
      const note = () => values.push(Number(element.textContent.replaceAll(",", "")));
      new MutationObserver(note).observe(element, { childList: true, characterData: true, subtree: true });
    }
  }, ids);

/** Waits until a figure has been more than zero since, and then was zero again. */
const roseAndFell = (page, id) =>
  page.waitForFunction((id) => {
    const values = globalThis.shown[id];
    const risen = values.findIndex((value) => value > 0);
    return risen >= 0 && values.slice(risen).includes(0);
  }, id);

test("figures follow what the server does", () =>
  visit(browser, `${galley.url}/`, {}, async (page) => {
    const totals = page.locator("#totals");
    await totals.filter({ hasText: "0 requests answered" }).waitFor();
    await page.locator("#batches caption").filter({ hasText: "Nothing yet" }).waitFor();
    await page.locator("#readiness").filter({ hasText: "Ready" }).waitFor();
    assert.match(await page.locator("#version").innerText(), /^\d+\.\d+\.\d+/);

    const texts = Array.from({ length: 3 }, (_, place) => `text ${place}`);
    await record(page, ["throughput", "request-rate"]);
    for (let request = 0; request < 10; request += 1) {
      assert.equal((await ask("echo", texts)).status, 200);
    }
    assert.equal((await ask("echo", "no list")).status, 400);
    await totals.filter({ hasText: "10 requests answered, 1 refused, 0 failed" }).waitFor();
    const sizes = await page.locator("#batches tbody tr").allInnerTexts();
    assert.match(sizes.at(-1), /^3–4\s+10$/, "ten batches of three");
    const percentiles = await page.locator("#latency tbody tr").allInnerTexts();
    assert.deepEqual(percentiles.map((row) => row.slice(0, 3)), ["p50", "p90", "p99"]);
    await roseAndFell(page, "throughput");
    await roseAndFell(page, "request-rate");
  }));

test("the figures of one recipe can be looked at alone", () =>
  visit(browser, `${galley.url}/`, {}, async (page) => {
    await ask("deepsegment_en", ["hello there how are you"]);
    const totals = page.locator("#totals");
    await page.getByLabel("Figures of").selectOption("deepsegment_en");
    await totals.filter({ hasText: "1 requests answered" }).waitFor();
    await page.getByLabel("Figures of").selectOption("transformers_ner");
    await totals.filter({ hasText: "0 requests answered" }).waitFor();
  }));

/** A poll from here on, however long it takes to come. */
const poll = (page) => page.waitForRequest((request) => request.url().endsWith("/metrics"));

/** Sees that none comes for two and a half of their periods. */
async function assertNoPoll(page) {
  let count = 0;
  const seen = (request) => {
    count += request.url().endsWith("/metrics") ? 1 : 0;
  };
  page.on("request", seen);
  await page.waitForTimeout(2500);
  page.off("request", seen);
  assert.equal(count, 0);
}

test("nothing is polled while paused or while the tab is hidden", () =>
  visit(browser, `${galley.url}/`, {}, async (page) => {
    await poll(page);
    await poll(page);
    const pause = page.getByRole("button", { name: "Pause" });
    await pause.click();
    assert.equal(await pause.getAttribute("aria-pressed"), "true");
    await assertNoPoll(page);
    await Promise.all([poll(page), pause.click()]);

    const hide = (hidden) =>
      page.evaluate((value) => {
        Object.defineProperty(document, "hidden", { configurable: true, value });
        document.dispatchEvent(new Event("visibilitychange"));
      }, hidden);
    await hide(true);
    await assertNoPoll(page);
    await Promise.all([poll(page), hide(false)]);
  }));

test("the server's state is shown: draining, unreachable, and ready again", async () => {
  const proxy = await startProxy(galley.url, {});
  try {
    await visit(browser, `${proxy.url}/`, {}, async (page) => {
      const state = page.locator("#readiness");
      await state.filter({ hasText: "Ready" }).waitFor();
      await page.route("**/readyz", (route) =>
        route.fulfill({ status: 503, json: { status: "draining" } }),
      );
      await state.filter({ hasText: "Draining" }).waitFor();
      await page.unroute("**/readyz");
      proxy.state.down = true;
      await state.filter({ hasText: "Unreachable" }).waitFor();
      await page.locator("#live-problem").filter({ hasText: "cannot be reached" }).waitFor();
      proxy.state.down = false;
      await state.filter({ hasText: "Ready" }).waitFor();
      await page.locator("#live-problem").waitFor({ state: "hidden" });
    });
  } finally {
    await proxy.stop();
  }
});
