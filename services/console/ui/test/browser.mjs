// What the browser tests share: a real Chromium, the address of a running stack, axe, and an end to everything that waits.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

// CONSOLE_URL is the console of a running stack; see ../../README.md.
export const base = process.env.CONSOLE_URL;
export const artefacts = process.env.CONSOLE_ARTEFACTS ?? "artefacts";
// patience bounds whatever one waits for; a wait that needs longer says so.
const patience = 20000;

export let browser;
before(async () => {
  assert.ok(base, "CONSOLE_URL must say where the console is");
  mkdirSync(artefacts, { recursive: true });
  for (const f of readdirSync(artefacts)) if (f.startsWith("failed-")) rmSync(`${artefacts}/${f}`); // of another time
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

// story is a test on a page of its own, opened at path, which may have to be asked for. It ends within its time: one that hangs
// says what it was doing, and leaves a picture and the text of its page among the artefacts, as one that fails does.
export function story(name, path, fn, { seconds = 60, from = base, ...options } = {}) {
  test(name, { timeout: (seconds + 20) * 1000 }, async (t) => {
    const began = Date.now();
    const context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      reducedMotion: "reduce",
      ...options,
    });
    context.setDefaultTimeout(patience);
    const page = await context.newPage();
    page.problems = [];
    page.on("console", (m) => m.type() === "error" && page.problems.push(m.text()));
    page.on("pageerror", (e) => page.problems.push(String(e)));
    page.on("request", (r) => !r.url().startsWith(from) && page.problems.push(`a request to ${r.url()}`));
    let late;
    const end = new Promise(
      (_, no) =>
        (late = setTimeout(
          () => no(new Error(`it hung while ${page.doing}: its time of ${seconds} s is over`)),
          seconds * 1000,
        )),
    );
    try {
      await Promise.race([end, tell()]);
    } catch (e) {
      const file = `${artefacts}/failed-${name.replaceAll(/\W+/g, "-")}`;
      await page.screenshot({ path: `${file}.png`, timeout: 5000 }).catch(() => {});
      const text = await Promise.race([
        page.evaluate(() => document.body.innerText).catch(String),
        new Promise((r) => setTimeout(r, 5000, "it does not answer")),
      ]);
      writeFileSync(
        `${file}.txt`,
        `${page.url()}\nwhile ${page.doing}\n${e.stack}\n\n${page.problems.join("\n")}\n\n${text}`,
      );
      e.message = `while ${page.doing}: ${e.message}\nsee ${file}.png and .txt`;
      throw e;
    } finally {
      clearTimeout(late);
      await Promise.race([context.close(), new Promise((r) => setTimeout(r, 5000))]);
      t.diagnostic(`${((Date.now() - began) / 1000).toFixed(1)} s`);
    }
    async function tell() {
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

// settled waits until nothing on a view is still being waited for.
export async function settled(page) {
  await page.locator(".connection", { hasText: "live" }).waitFor();
  await until(
    page,
    "the view has its data",
    () => !/Waiting for|Asking |Reading |Searching |Working it out/.test(document.querySelector("main").innerText),
  );
}

// until waits until something holds in the page.
export async function until(page, what, fn, { arg = null, timeout = patience } = {}) {
  page.doing = `waiting until ${what}`;
  await page.waitForFunction(fn, arg, { timeout });
}

// act fills in the dialog that every action passes.
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

// violations runs axe. Playwright's evaluate is not bound by the page's policy.
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
