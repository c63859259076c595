// What the browser tests share: a real Chromium, the addresses of a running stack, axe.
import { chromium } from "playwright-core";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

// CONSOLE_URL is the console of a running stack; see ../../README.md.
export const base = process.env.CONSOLE_URL;
export const artefacts = process.env.CONSOLE_ARTEFACTS ?? "artefacts";

export const launch = () =>
  chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });

export const views = [
  ["map", "/map"],
  ["services", "/services"],
  ["circuits", "/circuits"],
  ["settings", "/settings"],
  ["routes", "/routes"],
  ["traces", "/traces"],
  ["dependencies", "/traces/dependencies"],
  ["try", "/try/kill"],
];

// open shows a view once it has data: nothing on it is still being waited for.
export async function open(browser, path, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.problems = [];
  page.on("console", (m) => m.type() === "error" && page.problems.push(m.text()));
  page.on("pageerror", (e) => page.problems.push(String(e)));
  page.on("request", (r) => !r.url().startsWith(base) && page.problems.push(`a request to ${r.url()}`));
  await page.goto(base + path);
  await settled(page);
  return page;
}

export async function settled(page) {
  await page.getByText("live", { exact: false }).first().waitFor();
  await page.waitForFunction(() => !/Waiting for|Asking |Reading |Searching |Working it out/.test(document.querySelector("main").innerText), null, { timeout: 20000 });
}

const axeSource = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// violations runs axe. Playwright's evaluate is not bound by the page's policy.
export async function violations(page) {
  await page.evaluate(axeSource);
  const result = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  return result.violations.map((v) => `${v.id}: ${v.help}\n${v.nodes.slice(0, 4).map((n) => `  ${n.html.slice(0, 160)}\n    ${(n.failureSummary ?? "").split("\n").slice(1, 3).join(" ")}`).join("\n")}`);
}
