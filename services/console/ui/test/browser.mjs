// Helpers of the browser tests: Chromium, the address of a running stack, axe, and timeouts for all waits.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

// CONSOLE_URL is the console of a running stack; see ../../README.md.
export const base = process.env.CONSOLE_URL;
export const artefacts = process.env.CONSOLE_ARTEFACTS ?? "artefacts";
// defaultTimeout bounds every wait that has no timeout of its own, in milliseconds.
const defaultTimeout = 20000;

export let browser;
before(async () => {
  assert.ok(base, "CONSOLE_URL must say where the console is");
  mkdirSync(artefacts, { recursive: true });
  for (const f of readdirSync(artefacts)) if (f.startsWith("failed-")) rmSync(`${artefacts}/${f}`); // of an earlier run
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-dev-shm-usage",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
    timeout: 60000,
  });
});
after(() => browser?.close());

// story is a test on a new page, opened at path: a string, or a function that returns one. It fails after seconds. A
// failed story says what it was doing, and leaves a screenshot and the text of its page in the artefacts.
export function story(name, path, fn, { seconds = 60, from = base, ...options } = {}) {
  test(name, { timeout: (seconds + 20) * 1000 }, async (t) => {
    const began = Date.now();
    const context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      reducedMotion: "reduce",
      ...options,
    });
    context.setDefaultTimeout(defaultTimeout);
    const page = await context.newPage();
    page.problems = [];
    page.on("console", (m) => m.type() === "error" && page.problems.push(m.text()));
    page.on("pageerror", (e) => page.problems.push(String(e)));
    page.on("request", (r) => !r.url().startsWith(from) && page.problems.push(`a request to ${r.url()}`));
    let timer;
    const end = new Promise(
      (_, no) => (timer = setTimeout(() => no(new Error(`still ${page.doing} after ${seconds} s`)), seconds * 1000)),
    );
    try {
      await Promise.race([end, run()]);
    } catch (e) {
      const file = `${artefacts}/failed-${name.replaceAll(/\W+/g, "-")}`;
      await page.screenshot({ path: `${file}.png`, timeout: 5000 }).catch(() => {});
      const text = await Promise.race([
        page.evaluate(() => document.body.innerText).catch(String),
        new Promise((r) => setTimeout(r, 5000, "the page does not answer")),
      ]);
      writeFileSync(
        `${file}.txt`,
        `${page.url()}\nwhile ${page.doing}\n${e.stack}\n\n${page.problems.join("\n")}\n\n${text}`,
      );
      e.message = `while ${page.doing}: ${e.message}\nsee ${file}.png and .txt`;
      throw e;
    } finally {
      clearTimeout(timer);
      await Promise.race([context.close(), new Promise((r) => setTimeout(r, 5000))]);
      t.diagnostic(`${((Date.now() - began) / 1000).toFixed(1)} s`);
    }
    async function run() {
      if (path) await show(page, typeof path === "function" ? await path(page) : path, from);
      await fn(page, t);
      assert.deepEqual(page.problems, [], "errors in the browser's console");
    }
  });
}

// show opens a view and waits until it has its data.
export async function show(page, path, from = base) {
  page.doing = `opening ${path}`;
  await page.goto(from + path);
  await settled(page);
}

// settled waits until the view has all its data.
export async function settled(page) {
  await page.locator(".connection", { hasText: "live" }).waitFor();
  await until(
    page,
    "the view has its data",
    () => !/Waiting for|Asking |Reading |Searching |Computing /.test(document.querySelector("main").innerText),
  );
}

// until waits until something holds in the page.
export async function until(page, what, fn, { arg = null, timeout = defaultTimeout } = {}) {
  page.doing = `waiting until ${what}`;
  await page.waitForFunction(fn, arg, { timeout });
}

// act presses a button and fills in the dialog that asks for a name and a reason.
export async function act(page, button, reason) {
  page.doing = `pressing ${button}`;
  await page.getByRole("button", { name: button, exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Your name").fill("ann");
  if (reason) await dialog.getByLabel("Reason").fill(reason);
  await dialog.locator("button.primary").click();
  page.doing = `waiting for the end of ${button}`;
  await dialog.waitFor({ state: "hidden" });
}

export const state = async (page, topic) => (await page.request.get(`${base}/api/state/${topic}`)).json();

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// violations runs axe. The policy of the page does not apply to evaluate.
export async function violations(page) {
  const before = page.doing;
  page.doing = `running axe on ${page.url()}`;
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axeSource);
  const result = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  page.doing = before;
  return result.violations.map(
    (v) =>
      `${v.id}: ${v.help}\n${v.nodes
        .slice(0, 4)
        .map((n) => `  ${n.html.slice(0, 160)}\n    ${(n.failureSummary ?? "").split("\n").slice(1, 3).join(" ")}`)
        .join("\n")}`,
  );
}
