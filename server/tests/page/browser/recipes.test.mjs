// Each kind of input and answer, against the bundled recipes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { repository, startGalley } from "./servers.mjs";
import { answered, choose, launch, visit } from "./visit.mjs";

const COFFEE = repository("recipes/efficientnet/examples/coffee.jpg");

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

const visitPage = (path, steps) => visit(browser, `${galley.url}/${path}`, {}, steps);

test("the recipes that are served can be chosen, and the address names the choice", () =>
  visitPage("", async (page) => {
    await page.getByRole("radio").first().waitFor();
    const names = await page.locator(".recipe-name").allTextContents();
    assert.deepEqual(names, ["efficientnet_lite0", "deepsegment_en", "transformers_ner", "echo"]);
    assert.ok(await page.getByRole("radio", { name: "efficientnet_lite0" }).isChecked());
    await choose(page, "deepsegment_en");
    assert.equal(new URL(page.url()).hash, "#deepsegment_en");
    await page.reload();
    await page.getByRole("heading", { name: "deepsegment_en" }).waitFor();
  }));

test("a typed text comes back with its entities marked, in the right places", () =>
  visitPage("#transformers_ner", async (page) => {
    await page.getByLabel("Text", { exact: true }).fill("🙂 My name is Sarah Johnson, from Portland.");
    await page.getByRole("button", { name: "Run", exact: true }).click();
    await answered(page);
    const marks = await page.locator("mark").evaluateAll((all) =>
      all.map((mark) => [mark.firstChild.data, mark.querySelector(".kind").textContent]),
    );
    assert.deepEqual(marks, [
      ["Sarah", "GIVEN_NAME"],
      ["Johnson", "SURNAME"],
      ["Portland", "CITY"],
    ]);
    const legend = page.getByRole("list", { name: "Kinds of entities" });
    assert.match(await legend.innerText(), /GIVEN_NAME 1\s+SURNAME 1\s+CITY 1/);
    assert.match(await page.locator("#answer-status").innerText(), /3 entities$/);
  }));

test("a sample runs at one click and shows its sentences", () =>
  visitPage("#deepsegment_en", async (page) => {
    await page.getByRole("button", { name: /^I was hungry i ordered/ }).click();
    await answered(page);
    assert.deepEqual(await page.locator(".sentences li").allTextContents(), [
      "I was hungry",
      "i ordered a pizza and i went to the movies which movie did you go to",
    ]);
  }));

async function assertEspresso(page) {
  await answered(page);
  const rows = page.locator(".scores tbody tr");
  assert.equal(await rows.count(), 5);
  assert.match(await rows.first().innerText(), /^espresso\s+\d\d\.\d %$/);
  const widths = await page
    .locator(".scores .bar")
    .evaluateAll((bars) => bars.map((bar) => parseFloat(getComputedStyle(bar, "::before").width)));
  assert.ok(widths[0] > 2 * widths[1], `the best bar is the longest: ${widths}`);
}

test("a chosen image comes back with its five likeliest classes", () =>
  visitPage("#efficientnet_lite0", async (page) => {
    await page.getByLabel(/Choose an image/).setInputFiles(COFFEE);
    await assertEspresso(page);
    assert.ok(await page.getByRole("img", { name: "The image: coffee.jpg" }).isVisible());
  }));

test("so does one that is dropped, and the example", () =>
  visitPage("#efficientnet_lite0", async (page) => {
    await page.locator("#ask").waitFor();
    const data = await page.evaluateHandle((bytes) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(bytes)], "dropped.jpg", { type: "image/jpeg" }));
      return transfer;
    }, [...readFileSync(COFFEE)]);
    await page.dispatchEvent("#drop", "drop", { dataTransfer: data });
    await assertEspresso(page);
    assert.match(await page.locator("#drop-text").innerText(), /^dropped\.jpg/);
    await page.getByRole("button", { name: "Example image" }).click();
    await page.getByRole("img", { name: "The image: example" }).waitFor();
    await assertEspresso(page);
  }));

test("any JSON goes to echo, and comes back as it was sent", () =>
  visitPage("#echo", async (page) => {
    await page.getByLabel("Text", { exact: true }).fill('{"it\'s": [1, null]}');
    await page.getByLabel(/It is JSON/).check();
    await page.keyboard.press("Tab");
    await page.getByRole("button", { name: "Run", exact: true }).click();
    await answered(page);
    assert.deepEqual(JSON.parse(await page.locator("#answer-body pre").innerText()), {
      "it's": [1, null],
    });
    await page.getByText("The same with curl").click();
    assert.equal(
      await page.locator("#answer-curl").innerText(),
      `curl -d '[{"it'\\''s":[1,null]}]' ${galley.url}/recipes/echo/infer`,
    );
  }));

test("errors are shown as the server gives them", () =>
  visitPage("#efficientnet_lite0", async (page) => {
    const problem = page.locator("#answer").getByRole("alert");
    await page.getByRole("button", { name: "Run", exact: true }).click();
    assert.equal(await problem.innerText(), "Choose an image first.");

    await page.getByLabel(/Choose an image/).setInputFiles(repository("README.md"));
    await problem.filter({ hasText: "400: expected a JPEG, PNG, WebP, GIF, BMP or TIFF image" }).waitFor();
    await page.getByText("The answer as JSON").click();
    assert.equal(JSON.parse(await page.locator("#answer-json").innerText()).success, false);

    await choose(page, "echo");
    await page.getByLabel("Text", { exact: true }).fill("{");
    await page.getByLabel(/It is JSON/).check();
    await page.getByRole("button", { name: "Run", exact: true }).click();
    await problem.filter({ hasText: "This is not JSON" }).waitFor();

    await page.getByLabel("Text", { exact: true }).fill("[1]");
    await page.getByRole("button", { name: "Run", exact: true }).click();
    await answered(page);
    assert.ok(await problem.isHidden(), "an answer takes the problem's place");
  }));

test("texts are texts, never markup", () =>
  visitPage("#deepsegment_en", async (page) => {
    const text = "<img src=x onerror=alert(1)> hello";
    await page.getByLabel("Text", { exact: true }).fill(text);
    await page.getByRole("button", { name: "Run", exact: true }).click();
    await answered(page);
    assert.equal(await page.locator("#answer-body img").count(), 0);
    assert.match(await page.locator("#answer-body").innerText(), /<img src=x/);
  }));
