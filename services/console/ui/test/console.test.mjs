// The console in a real Chromium against a running stack, which must be one of its own: the tour breaks it and mends it.
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { after, before, test } from "node:test";
import { artefacts, base, launch, open, settled, views, violations } from "./browser.mjs";

let browser;
before(async () => {
  assert.ok(base, "CONSOLE_URL must say where the console is");
  mkdirSync(artefacts, { recursive: true });
  browser = await launch();
});
after(() => browser?.close());

const within = (ms) => ({ timeout: ms });
const state = async (page, topic) => (await page.request.get(`${base}/api/state/${topic}`)).json();

// withPage closes what it opened, and keeps a picture of what went wrong.
async function withPage(path, options, fn) {
  const page = await open(browser, path, options);
  try {
    await fn(page);
    assert.deepEqual(page.problems, [], "errors in the browser's console");
  } catch (e) {
    await page.screenshot({ path: `${artefacts}/failed-${path.replaceAll(/\W+/g, "-")}.png` });
    throw e;
  } finally {
    await page.context().close();
  }
}

// act fills in the dialog that every action passes.
async function act(page, button, reason) {
  await page.getByRole("button", { name: button, exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Your name").fill("ann");
  if (reason) await dialog.getByLabel("Reason").fill(reason);
  await dialog.locator("button.primary").click();
  await dialog.waitFor({ state: "hidden", timeout: 20000 });
}

const expected = {
  map: ["gateway", "catalog", "The same as a table"],
  services: ["catalog-a-1", "22 instances of 16 services", "Take out"],
  circuits: ["catalog.GetTitles", "Force"],
  settings: ["web.home.row", "Films in a row of the home page."],
  routes: ["hello v2", "route.zone"],
  traces: ["Took", "Began"],
  dependencies: ["recommendations", "Callee"],
  try: ["Kill an instance", "What will happen"],
};

for (const [name, path] of views) {
  test(`${name} shows the running stack, without violations, light, dark, wide and narrow`, async () => {
    for (const [colorScheme, width] of [["light", 1280], ["dark", 1280], ["light", 390]]) {
      await withPage(path, { colorScheme, viewport: { width, height: 800 } }, async (page) => {
        for (const text of expected[name]) await page.getByText(text).first().waitFor(within(15000));
        assert.deepEqual(await violations(page), []);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(wide, 0, `the page is ${wide} px too wide at ${width}`);
      });
    }
  });
}

// A system of 100 services in layers, as the stream would tell it.
function large(n) {
  const name = (i) => (i === 0 ? "INTERNET" : i === 1 ? "gateway" : `service-${i}`);
  const load = { rate: 12.3, errorPercent: 0.4, p50Ms: 3, p99Ms: 40 };
  const nodes = Array.from({ length: n }, (_, i) => ({ name: name(i), instances: 3, up: i % 17 === 5 ? 2 : 3, ...load }));
  const edges = [];
  for (let i = 1; i < n; i++) edges.push({ from: name(i < 2 ? 0 : 1 + Math.floor((i - 2) / 4)), to: name(i), ...load, rejected: 0, fallbacks: 0, ...(i % 23 === 7 ? { open: ["x.Get"], errorPercent: 40 } : {}) });
  const instances = nodes.slice(1).flatMap((s) => ["a", "b", "c"].map((z) => ({ service: s.name, id: `${s.name}-${z}`, zone: z, version: "v1", status: "UP", reported: "UP", endpoints: {} })));
  return Object.entries({ hello: { version: "x", readOnly: false }, parts: {}, traffic: { nodes, edges }, fleet: { instances } })
    .map(([topic, data]) => `event: ${topic}\ndata: ${JSON.stringify(data)}\n\n`)
    .join("");
}

test("the map is readable at 3 and at 100 services", async () => {
  for (const n of [4, 101]) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: "reduce" });
    const page = await context.newPage();
    let answered = false; // a stream that ends is asked for again
    await page.route("**/api/stream", (r) => (answered ? r.abort() : ((answered = true), r.fulfill({ contentType: "text/event-stream", body: large(n) }))));
    await page.goto(`${base}/map`);
    await page.locator(".node").nth(n - 1).waitFor({ state: "attached" });
    await page.screenshot({ path: `${artefacts}/map-of-${n - 1}.png` });
    const overlaps = await page.evaluate(() => {
      const boxes = [...document.querySelectorAll(".node")].map((g) => g.querySelector("rect").getBoundingClientRect());
      return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)).length;
    });
    assert.equal(overlaps, 0, `boxes over each other at ${n - 1} services`);
    const px = await page.locator(".node .name").first().evaluate((t) => t.getBoundingClientRect().height);
    assert.ok(px >= 9, `names are ${px} px high at ${n - 1} services`);
    assert.deepEqual(await violations(page), []);
    await context.close();
  }
});

test("the first view is there within a second of its script, which is small", async () => {
  await withPage("/map", {}, async (page) => {
    const script = await page.request.get(`${base}/app.js`, { headers: { "Accept-Encoding": "gzip" } });
    assert.equal(script.headers()["content-encoding"], "gzip");
    await page.getByRole("navigation", { name: "Views" }).waitFor();
  });
});

test("everything can be reached by keyboard", async () => {
  await withPage("/map", {}, async (page) => {
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the view");
    const node = page.getByRole("button", { name: /^catalog\b/ });
    await node.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("region", { name: "Service catalog" }).waitFor();
    assert.match(page.url(), /service=catalog/);
    await page.getByRole("link", { name: "Instances", exact: true }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Services / catalog" }).waitFor();
    await page.getByRole("button", { name: "Take out catalog-a-1" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "hidden" });
  });
});

test("an edge leads to exactly its traces, a trace to its decisions, and two traces can be compared", async () => {
  await withPage("/map?edge=web~catalog", {}, async (page) => {
    await page.getByRole("link", { name: "Traces of exactly these calls" }).click();
    await settled(page);
    assert.match(page.url(), /service=web&remote=catalog/);
    const rows = page.getByRole("region", { name: "Traces, the newest first" }).getByRole("row");
    await rows.nth(1).getByRole("link").first().click();
    await settled(page);
    await page.getByRole("region", { name: "Waterfall" }).waitFor();
    await page.getByRole("button", { name: /^Catalog\// }).first().click();
    await page.getByText("Why it went there").waitFor();
    await page.getByText(/Picked catalog-/).waitFor();
    assert.deepEqual(await violations(page), []);
    const a = page.url().match(/traces\/(\w+)/)[1];
    const traces = await (await page.request.get(`${base}/api/traces/traces?serviceName=web&limit=10`)).json();
    const b = traces.map((t) => t[0].traceId).find((id) => id !== a);
    await page.getByRole("link", { name: "Compare with another" }).click();
    await page.getByLabel("Trace B").fill(b);
    await page.getByRole("button", { name: "Compare" }).click();
    await page.getByRole("region", { name: "Differences by operation" }).waitFor();
    assert.deepEqual(await violations(page), []);
  });
});

test("an instance is taken out of service and put back", async () => {
  await withPage("/services/hello", {}, async (page) => {
    await act(page, "Take out hello-1", "disk");
    await page.getByText("out of service").first().waitFor(within(10000));
    await act(page, "Put back hello-1", "new disk");
    await page.getByRole("button", { name: "Take out hello-1" }).waitFor(within(10000));
  });
});

test("a circuit is forced and released", async () => {
  await withPage("/circuits?q=search.Search&caller=web", {}, async (page) => {
    await act(page, "Force search.Search of web", "game day");
    await page.getByText("forced open").first().waitFor(within(15000));
    await page.getByRole("button", { name: "Force search.Search of web" }).click();
    await page.getByLabel(/release/).check();
    await page.getByLabel("Reason").fill("over");
    await page.getByRole("button", { name: "Publish" }).click();
    await page.getByText("All 1 closed").or(page.getByText(/All \d+ closed/)).first().waitFor(within(20000));
  });
});

test("a setting is checked as one types, published, followed, explained and rolled back", async () => {
  await withPage("/settings/web.home.row?app=web", {}, async (page) => {
    const box = page.getByLabel("New value");
    await box.fill("many");
    await page.getByText(/It does not fit/).waitFor();
    assert.ok(await page.getByRole("button", { name: "Publish" }).isDisabled());
    await box.fill("6");
    await page.getByText("It fits.").waitFor();
    assert.deepEqual(await violations(page), []);
    await act(page, "Publish", "fits my screen");
    await page.getByRole("cell", { name: "wins" }).waitFor();
    await page.getByRole("row", { name: /wins 6/ }).waitFor(within(10000));
    await page.waitForFunction(() => /(\d+) of \1 instances on revision/.test(document.body.innerText), null, within(20000));
    await act(page, "Remove the value there", "as it was");
    await page.getByRole("row", { name: /wins 12/ }).waitFor(within(10000));
    page.problems = page.problems.filter((p) => !/400/.test(p)); // what did not fit was refused
  });
});

test("a split is published with sliders and undone by rolling back", async () => {
  await withPage("/routes", {}, async (page) => {
    const slider = page.getByLabel("Percent of hello to hello v2");
    await slider.focus();
    for (let i = 0; i < 20; i++) await page.keyboard.press("ArrowRight");
    await act(page, "Publish this split", "canary");
    await page.waitForFunction(() => document.querySelector("main").innerText.includes("20 %"), null, within(15000));
    await page.goto(`${base}/settings/history`);
    await settled(page);
    await page.getByText("canary").first().waitFor();
    const { newest } = await state(page, "settings");
    const r = await page.request.post(`${base}/api/config/Publish`, { data: { changes: [{ name: "gateway.routes", scope: { layer: "LAYER_APP", app: "gateway" }, remove: true }], author: "ann", reason: "as it was" } });
    assert.equal(r.status(), 200, `after revision ${newest.revision}`);
  });
});

test("a console that goes away is said, and found again", async () => {
  await withPage("/map", {}, async (page) => {
    await page.route("**/api/stream", (r) => r.abort());
    await page.request.post(`${base}/api/kill`, { data: { service: "console", id: "console-1", for: "3s", author: "ann", reason: "disconnected back end" } });
    await page.getByText("The console itself does not answer since").waitFor(within(15000));
    await page.getByText("not connected").waitFor();
    assert.deepEqual(await violations(page), []);
    await page.unroute("**/api/stream");
    await page.getByText("live").first().waitFor(within(30000));
    await page.getByText("The console itself does not answer since").waitFor({ state: "hidden", ...within(10000) });
    page.problems = page.problems.filter((p) => !/Failed to load resource|ERR_/.test(p));
  });
});

test("the tour: kill an instance", async () => {
  await withPage("/try/kill", {}, async (page) => {
    await act(page, "Kill it");
    await page.getByText("not answering").first().waitFor(within(10000));
    await page.getByText(/stopped answering/).first().waitFor();
    await page.getByText(/answers again|registered/).first().waitFor(within(60000));
  });
});

test("the tour: slow a service", async () => {
  await withPage("/try/slow", {}, async (page) => {
    await act(page, "Slow it down");
    await page.waitForFunction(() => [...document.querySelectorAll("li")].some((l) => /web to ratings/.test(l.innerText) && /p50 (6\d\d|7\d\d|[89]\d\d) ms|p50 1\.\d+ s/.test(l.innerText)), null, within(90000));
    await act(page, "Take the rule away");
    await page.getByRole("button", { name: "Slow it down", exact: true }).waitFor();
  });
});

test("the tour: break recommendations", async () => {
  await withPage("/try/break", {}, async (page) => {
    await act(page, "Break it");
    await page.getByText(/answered by a fallback/).first().waitFor(within(60000));
    await page.waitForFunction(() => [...document.querySelectorAll("li")].some((l) => /web to recommendations\.Recommend/.test(l.innerText) && /^\W*(open|half-open)/.test(l.innerText.trim())), null, within(90000));
    await act(page, "Mend it");
    await page.waitForFunction(() => [...document.querySelectorAll("li")].some((l) => /web to recommendations\.Recommend/.test(l.innerText) && /^\W*closed/.test(l.innerText.trim())), null, within(60000));
  });
});

test("the tour: publish a bad setting", async () => {
  await withPage("/try/setting", {}, async (page) => {
    const before = (await state(page, "settings")).status.revision;
    await act(page, "Publish it");
    await page.getByText(/Refused, as it should be/).waitFor();
    assert.equal((await state(page, "settings")).status.revision, before);
    page.problems = page.problems.filter((p) => !/400/.test(p)); // the refusal is the point
  });
});

test("the tour: shift 10 % to a new version", async () => {
  await withPage("/try/shift", {}, async (page) => {
    await act(page, "Shift 10 %");
    await page.getByText(/v1 has weight 90, v2 has weight 10/).waitFor(within(15000));
    await page.getByRole("button", { name: "Send 100 requests through the edge" }).click();
    const text = await page.getByText(/^100 answers:/).innerText(within(30000));
    const v2 = Number(text.match(/(\d+) from v2/)?.[1] ?? 0);
    assert.ok(v2 >= 1 && v2 <= 30, text);
    await act(page, "All back to v1");
    await page.getByText(/v1 has weight 1, v2 has weight 0/).waitFor(within(15000));
  });
});

test("the tour: stop the registry", async () => {
  await withPage("/try/registry", {}, async (page) => {
    await act(page, "Stop it");
    await page.locator("article .badge.bad", { hasText: "does not answer" }).waitFor(within(15000));
    const edge = (await state(page, "traffic")).edges.find((e) => e.from === "INTERNET");
    assert.ok(edge.errorPercent < 50, `the product while the registry is away: ${JSON.stringify(edge)}`);
    await page.locator("article .badge.ok", { hasText: /answers$/ }).waitFor(within(60000));
    page.problems = page.problems.filter((p) => !/50[34]/.test(p));
  });
});
