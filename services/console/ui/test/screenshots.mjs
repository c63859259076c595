// Writes a picture of each view, light and dark, wide and narrow, into the artefact folder, and the ones of the documents
// into docs/pictures if --docs is given.
import { mkdirSync, writeFileSync } from "node:fs";
import { artefacts, base, launch, open, views } from "./browser.mjs";

if (!base) throw new Error("CONSOLE_URL must say where the console is");
const only = process.argv.slice(2).filter((a) => !a.startsWith("-"));
const docs = process.argv.includes("--docs");
// What the documents show, and in which colours.
const pictures = { map: "light", circuits: "light", trace: "dark", try: "light" };
mkdirSync(artefacts, { recursive: true });
if (docs) mkdirSync("../../../docs/pictures", { recursive: true });
const browser = await launch();
const more = async (page) => {
  // a trace of its own, the newest that is not too small
  const r = await page.request.get(`${base}/api/traces/traces?serviceName=web&limit=20`);
  const traces = await r.json();
  const t = traces.sort((a, b) => b.length - a.length)[0];
  return t ? [["trace", `/traces/${t[0].traceId}?span=${t.find((s) => s.tags?.["bijou.route.instance"])?.id ?? ""}`], ["compare", `/traces/compare?a=${t[0].traceId}&b=${(traces[1] ?? t)[0].traceId}`]] : [];
};
const first = await open(browser, "/map");
const all = [...views, ["service", "/services/catalog"], ["instance", "/services/web/web-1"], ["setting", "/settings/web.home.row?app=web"], ["history", "/settings/history"], ["map-service", "/map?service=web&platform=1"], ["try-break", "/try/break"], ["try-shift", "/try/shift"], ...(await more(first))];
await first.context().close();
for (const [name, path] of all) {
  if (only.length && !only.includes(name)) continue;
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      const page = await open(browser, path, { colorScheme, viewport: { width, height: width === 390 ? 844 : 800 } });
      await page.waitForTimeout(1200); // rates need two answers
      const png = await page.screenshot({ path: `${artefacts}/${name}-${colorScheme}-${width}.png` });
      if (docs && width === 1280 && pictures[name] === colorScheme) writeFileSync(`../../../docs/pictures/console-${name}.png`, png);
      if (page.problems.length) console.log(name, page.problems);
      await page.context().close();
    }
  }
}
await browser.close();
