// Builds the front end into ../dist, which Go embeds. The same input gives the same bytes.

import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const out = "../dist";
const options = {
  entryPoints: ["src/app.tsx", "src/app.css"],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // licenses.txt has them in full
  logLevel: "info",
};

for (const f of readdirSync(out)) if (!f.startsWith(".")) rmSync(`${out}/${f}`, { recursive: true });

if (process.argv.includes("--watch")) {
  const context = await esbuild.context(options);
  await context.watch();
  page();
} else {
  await esbuild.build(options);
  const kb = gzipSync(readFileSync(`${out}/app.js`)).length / 1024;
  console.log(`script: ${kb.toFixed(1)} KB compressed, of at most 300`);
  if (kb > 300) process.exit(1);
  page();
}

// page runs last: if index.html exists, the other files exist too.
function page() {
  writeFileSync(`${out}/licenses.txt`, licenses());
  cpSync("public", out, { recursive: true });
}

// licenses returns the licences of all packages in the bundle.
function licenses() {
  const lock = JSON.parse(readFileSync("package-lock.json", "utf8"));
  const texts = [];
  for (const [path, p] of Object.entries(lock.packages).sort()) {
    if (!path || p.dev) continue;
    const file = ["LICENSE", "LICENSE.md", "license"].map((n) => `${path}/${n}`).find(existsSync);
    const text = file ? readFileSync(file, "utf8").trim() : "";
    texts.push(`${path.replace("node_modules/", "")} ${p.version} (${p.license})\n\n${text}\n`);
  }
  return `app.js contains these packages:\n\n${texts.join(`\n${"-".repeat(80)}\n\n`)}`;
}
