// Behind a proxy: under a path, and with an API key.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { startGalley, startProxy } from "./servers.mjs";
import { answered, launch, visit } from "./visit.mjs";

const KEY = "correct-horse";

let browser;
let galley;
let proxy;

before(async () => {
  // One after the other: where the second fails, `after` knows the first and ends it.
  galley = await startGalley();
  browser = await launch();
  proxy = await startProxy(galley.url, { prefix: "/models/galley", key: KEY });
});
after(async () => {
  await browser?.close();
  await proxy?.stop();
  await galley?.stop();
});

test("a key is asked for, kept for this tab, and never shown", () =>
  visit(browser, `${proxy.url}/#transformers_ner`, {}, async (page) => {
    const form = page.getByRole("form", { name: "This server asks for an API key" });
    await form.waitFor();
    const enter = async (key) => {
      await page.getByLabel("API key", { exact: true }).fill(key);
      await page.getByRole("button", { name: "Use this key" }).click();
    };
    await enter("wrong");
    await form.getByText("does not accept the key").waitFor();
    assert.equal(await page.locator("#ask").isVisible(), false);

    await enter(KEY);
    await page.locator("#ask").waitFor();
    assert.equal(await form.isVisible(), false);
    await page.locator("#totals").filter({ hasText: "requests answered" }).waitFor();

    await page.getByRole("button", { name: /^My name is Sarah/ }).click();
    await answered(page);
    await page.getByText("The same with curl").click();
    const curl = await page.locator("#answer-curl").innerText();
    assert.ok(curl.includes('-H "Authorization: Bearer $API_KEY"'), curl);
    assert.ok(curl.includes(`${proxy.url}/recipes/transformers_ner/infer`), curl);
    assert.equal((await page.content()).includes(KEY), false);

    await page.reload();
    await page.locator("#ask").waitFor();
    assert.equal(await form.isVisible(), false, "it is kept in this tab");
    assert.equal(await page.evaluate(() => localStorage.length), 0);
  }));
