// Opens pages in a real browser: device.mjs MODE. The modes are at the end of this file.
//
// EDGE is Envoy, KEEN the mock of Keen, CHROMIUM the browser. The last line of the output is the report, as JSON.
import { createServer } from "node:http";
import { chromium } from "playwright-core";
import { build } from "esbuild-wasm";

const { EDGE, KEEN, CHROMIUM } = process.env;

const { outputFiles } = await build({
  entryPoints: ["page.mjs"],
  absWorkingDir: import.meta.dirname,
  bundle: true,
  // Segment's integrations expect Node's `global`.
  define: { global: "window" },
  format: "iife",
  write: false,
  logLevel: "error",
});
const script = outputFiles[0].text;
const shop = createServer((request, response) => {
  const isScript = request.url.startsWith("/page.js");
  response.setHeader("content-type", isScript ? "text/javascript" : "text/html; charset=utf-8");
  // With this policy the filter receives the whole address of the page as Referer.
  response.setHeader("referrer-policy", "unsafe-url");
  response.end(isScript ? script : `<!doctype html><title>Shop</title><script src="/page.js"></script>`);
});
await new Promise((resolve) => shop.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${shop.address().port}`;

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
const report = { pages: 0, toKeen: 0, errors: [] };

async function visit(key, more, loads = 1) {
  // A new context shares no cookies and no storage with other visits.
  const context = await browser.newContext();
  const page = await context.newPage();
  page.on("pageerror", (error) => report.errors.push(String(error)));
  // Keen's client uses its own host; here the mock answers.
  await page.route("https://api.keen.io/**", async (route) => {
    const url = new URL(route.request().url());
    report.toKeen += 1;
    await route.fulfill({ response: await route.fetch({ url: `${KEEN}${url.pathname}${url.search}` }) });
  });
  const url = `${origin}/cart?key=${key}&edge=${encodeURIComponent(EDGE)}${more}`;
  for (let load = 0; load < loads; load += 1) {
    await (load === 0 ? page.goto(url) : page.reload());
    await page.evaluate(() => window.done);
    report.pages += 1;
  }
  // Wait for the last response of Keen.
  await page.waitForLoadState("networkidle");
  await context.close();
}

const MODES = {
  // The same calls from a page that sends to Keen itself and from one that does not.
  async compare() {
    await visit("bundled", "&bundled&calls");
    await visit("served", "&calls");
  },
  // A page without calls, loaded twice.
  async loads() {
    await visit("loads", "", 2);
  },
};
await MODES[process.argv[2]]();
await browser.close();
shop.close();
console.log(JSON.stringify(report));
