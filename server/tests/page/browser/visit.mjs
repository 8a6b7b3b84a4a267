// Chromium, and visits to the page in it. A visit that met an error of the page or a breach of its
// Content-Security-Policy has failed, whatever else was seen.

import assert from "node:assert/strict";

import { chromium } from "playwright-core";

/** Without the flags Chromium asks hosts of its maker's, which a closed network refuses. */
const FLAGS = [
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Its sandbox wants another user than root, as whom containers run.
  ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
];

/** How long anything may take, in ms: only a hang takes as long, however busy the machine is. */
const PATIENCE = 180_000;

export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM, args: FLAGS, timeout: PATIENCE });

/**
 * Opens the page at `url` in a browser profile of its own, calls `steps(page, asked)`, and looks for errors. `asked` are the URLs that
 * were asked for so far.
 */
export async function visit(browser, url, options, steps) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    colorScheme: "light",
    reducedMotion: "reduce",
    ...options,
  });
  context.setDefaultTimeout(PATIENCE);
  try {
    const page = await context.newPage();
    const [errors, asked] = [[], []];
    page.on("request", (request) => asked.push(request.url()));
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => {
      // That a request was refused is often the very thing under test.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
        errors.push(message.text());
      }
    });
    await page.goto(url);
    await steps(page, asked);
    assert.deepEqual(errors, []);
  } finally {
    await context.close();
  }
}

/** Turns to a recipe. */
export async function choose(page, recipe) {
  await page.getByRole("radio", { name: recipe }).check();
  await page.getByRole("heading", { name: recipe }).waitFor();
}

/** Waits for an answer: the status line says how long it took. */
export const answered = (page) =>
  page.locator("#answer-status").filter({ hasText: /^In [\d.,]+ (µs|ms|s)/ }).waitFor();
