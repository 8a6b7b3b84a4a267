// Reports of `galley bench`, each kind as a page: one of each committed under bench-results, made anew by `galley bench report`, and
// those that no folder there is of, made by a small run. A page of a file, light and dark: no error, no request, nothing that axe finds.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, copyFile, mkdir, mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { assertNoViolations } from "./axe.mjs";
import { repository } from "./servers.mjs";
import { launch, visit } from "./visit.mjs";

const RESULTS = repository("bench-results");
/** Runs that are small and quick, of kinds that may have no committed folder. */
const SMALL = {
  compare: ["transformers_ner", "--batch", "1,2", "--examples", "8", "--compared", "4", "--seconds", "0.1"],
  native: ["echo", "--batch", "1,8", "--examples", "64"],
  models: ["--models", "squeezenet1_1,resnet18", "--image-size", "64", "--batch-size", "1", "--num-steps", "4"],
  against: [process.env.GALLEY, "echo", "--rounds", "6", "--examples", "64", "--seconds", "0.1"],
};

let folder;
let browser;
/** Pages by kind. */
const pages = new Map();

const bench = (...args) => promisify(execFile)(process.env.GALLEY, ["bench", ...args]);

/** Committed folders that `galley bench` made, one of each kind. */
async function committed() {
  const found = new Map();
  for (const name of (await readdir(RESULTS)).sort()) {
    const records = join(RESULTS, name, "results.jsonl");
    const text = await readFile(records, "utf8").catch(() => "");
    const run = text && JSON.parse(text.slice(0, text.indexOf("\n")));
    if (run?.schema && run.what) {
      found.set(run.what, records);
    }
  }
  return found;
}

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "galley-reports-"));
  for (const [kind, records] of await committed()) {
    const copy = join(folder, kind);
    await mkdir(copy);
    await copyFile(records, join(copy, "results.jsonl"));
    await chmod(join(copy, "results.jsonl"), 0o644);
    await bench("report", copy);
    pages.set(kind, join(copy, "report.html"));
  }
  for (const [kind, args] of Object.entries(SMALL)) {
    if (!pages.has(kind)) {
      await bench(kind, ...args, "--out", join(folder, kind));
      pages.set(kind, join(folder, kind, "report.html"));
    }
  }
  await bench("history", RESULTS, "--out", join(folder, "history"));
  pages.set("history", join(folder, "history", "history.html"));
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await rm(folder, { recursive: true, force: true });
});

test("there is a page of each kind", () => {
  for (const kind of ["matrix", "stream", "agreement", "compare", "native", "models", "against", "history"]) {
    assert.ok(pages.has(kind), kind);
  }
});

/** Opens each page, calls `steps(page, kind)`, and looks for errors and for requests to anyone. */
async function eachPage(options, steps) {
  for (const [kind, path] of pages) {
    const url = pathToFileURL(path).href;
    await visit(browser, url, options, async (page, asked) => {
      await steps(page, kind);
      assert.deepEqual(asked, [url], kind);
    });
  }
}

for (const colorScheme of ["light", "dark"]) {
  test(`reports are for everyone in the ${colorScheme} theme`, () =>
    eachPage({ colorScheme }, async (page, kind) => {
      assert.ok((await page.locator("h1").count()) === 1, kind);
      for (const summary of await page.locator("summary").all()) {
        await summary.click();
      }
      await assertNoViolations(page, kind);
    }));
}

test("reports need no script and, on a narrow screen, scroll in one direction only", () =>
  eachPage({ viewport: { width: 320, height: 640 } }, async (page, kind) => {
    assert.equal(await page.locator("script").count(), 0, kind);
    const over = await page.evaluate(
      () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
    );
    assert.equal(over, 0, kind);
  }));

test("the theme of a report is the system's", () =>
  eachPage({ colorScheme: "dark" }, async (page, kind) => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await page.emulateMedia({ colorScheme: "light" });
    assert.notEqual(await ground(), dark, kind);
  }));
