// Prints how Segment's facade reads messages: one JSON object per line in, one per line out.
//
// node facade.mjs PACKAGE <messages >readings
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { Page, Track } = createRequire(import.meta.url)(process.argv[2]);

function read(message) {
  const facade = message.type === "page" ? new Page(message) : new Track(message);
  const reading = { enabled: facade.enabled("Keen IO") };
  if (reading.enabled) {
    const options = facade.options("Keen IO");
    reading.traits = options?.traits;
  }
  if (message.type === "page") {
    reading.category = facade.category();
    reading.fullName = facade.fullName();
  }
  reading.timestamp = facade.timestamp();
  reading.userId = facade.userId() || facade.sessionId();
  reading.ip_address = facade.ip();
  reading.user_agent = facade.userAgent();
  reading.page_url = facade.proxy("properties.url") || facade.proxy("context.page.url");
  reading.referrer_url = facade.proxy("context.page.referrer");
  return reading;
}

for await (const line of createInterface({ input: process.stdin })) {
  let reading;
  try {
    reading = read(JSON.parse(line));
  } catch (error) {
    reading = { thrown: String(error) };
  }
  console.log(JSON.stringify(reading));
}
