// Keen in a page: Segment's base class of browser integrations and Keen's client keen-js 3.4.0, which Segment's integration
// loads. The code between them follows Segment's `Keen IO` integration 2.1.3, which no registry has: identify sets
// global properties, and each event has its own add-ons.
import createIntegration from "@segment/analytics.js-integration";
import KeenClient from "keen-js/src/keen-tracker.js";

const OPTIONS = {
  projectId: "",
  writeKey: "",
  readKey: "",
  trackAllPages: false,
  trackCategorizedPages: true,
  trackNamedPages: true,
  ipAddon: false,
  uaAddon: false,
  urlAddon: false,
  referrerAddon: false,
};

// Each add-on: its JSON, and the properties that it reads.
const ADDONS = {
  ipAddon: [
    { name: "keen:ip_to_geo", input: { ip: "ip_address" }, output: "ip_geo_info" },
    () => ({ ip_address: "${keen.ip}" }),
  ],
  uaAddon: [
    { name: "keen:ua_parser", input: { ua_string: "user_agent" }, output: "parsed_user_agent" },
    () => ({ user_agent: "${keen.user_agent}" }),
  ],
  urlAddon: [
    { name: "keen:url_parser", input: { url: "page_url" }, output: "parsed_page_url" },
    () => ({ page_url: location.href }),
  ],
  referrerAddon: [
    {
      name: "keen:referrer_parser",
      input: { referrer_url: "referrer_url", page_url: "page_url" },
      output: "referrer_info",
    },
    () => ({ referrer_url: document.referrer, page_url: location.href }),
  ],
};

export const KeenIO = createIntegration("Keen IO");
for (const [name, value] of Object.entries(OPTIONS)) KeenIO.option(name, value);

Object.assign(KeenIO.prototype, {
  initialize() {
    const { projectId, writeKey, readKey } = this.options;
    this.client = new KeenClient({ projectId, writeKey, readKey });
    this.ready();
  },

  loaded() {
    return Boolean(this.client);
  },

  identify(identify) {
    const user = { traits: identify.traits() };
    if (identify.userId()) user.userId = identify.userId();
    const properties = this.withAddons({ user }, identify);
    this.client.setGlobalProperties(() => structuredClone(properties));
  },

  track(track) {
    this.client.addEvent(track.event(), this.withAddons(track.properties(), track));
  },

  page(page) {
    const { trackAllPages, trackNamedPages, trackCategorizedPages } = this.options;
    if (trackAllPages) this.track(page.track());
    if (trackNamedPages && page.fullName()) this.track(page.track(page.fullName()));
    if (trackCategorizedPages && page.category()) this.track(page.track(page.category()));
  },

  withAddons(properties, message) {
    const on = Object.entries(ADDONS).filter(([setting]) => this.options[setting]);
    const keen = { timestamp: message.timestamp(), addons: on.map(([, [addon]]) => addon) };
    return Object.assign(properties, ...on.map(([, [, reads]]) => reads()), { keen });
  },
});
