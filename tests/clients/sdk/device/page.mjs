// The script of the page.
import { AnalyticsBrowser } from "@segment/analytics-next";
import { KeenIO } from "./keen-io.mjs";

const parameters = new URLSearchParams(location.search);
const edge = new URL(parameters.get("edge"));
const analytics = AnalyticsBrowser.load(
  {
    writeKey: parameters.get("key"),
    cdnURL: edge.origin,
    // A page that sends to Keen itself includes the integration.
    classicIntegrations: parameters.has("bundled") ? [KeenIO] : [],
  },
  { integrations: { "Segment.io": { apiHost: `${edge.host}/v1`, protocol: "http" } } },
);

// Each call waits for the one before it, so that their order on the wire is fixed.
async function calls() {
  await analytics.page();
  await analytics.track("Before", { n: 1, nested: { list: [1, { deep: null }], text: "ü €" } });
  await analytics.identify({ seen: true });
  await analytics.track("Anonymous", { n: 2 });
  await analytics.page("Docs", "Index", { sheet: 3 });
  await analytics.page("Home");
  await analytics.identify("u-1", { plan: "pro", address: { city: "Köln" } });
  await analytics.track("Purchased", { price: 19.99, traits: "own", userId: "own" });
  await analytics.track("With a user of its own", { user: { name: "Ann" } });
  await analytics.identify("u-1", { plan: "free" });
  await analytics.track("Downgraded", { "a.b": 1, keen: { location: { coordinates: [7, 51] } } });
  await analytics.group("g-1", { name: "Group" });
  await analytics.track("Dated", { on: "2026-01-02", at: "2026-01-02T03:04:05+02:00" });
  await analytics.identify("u-2", {});
  await analytics.track("Of another", {});
}

window.done = (async () => {
  await analytics.ready();
  if (parameters.has("calls")) await calls();
  return true;
})();
