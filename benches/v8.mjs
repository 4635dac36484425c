// Measures the built filter in V8, the engine of Envoy, without Envoy: microseconds per request and per event, the
// minimum of many rounds. Usage: `node benches/v8.mjs [module.wasm]`. Compare two modules with two runs of each.

import { readFileSync } from 'node:fs';

const file = process.argv[2] ?? new URL('../target/keen_edge.wasm', import.meta.url);
const module = new WebAssembly.Module(readFileSync(file));
const source = {
  projectId: '5181bcd23843312d87000000',
  writeKey: 'ABCDEF0123456789ABCDEF0123456789',
  ipAddon: true, uaAddon: true, urlAddon: true, referrerAddon: true,
};
const config = Buffer.from(JSON.stringify({ keen: { cluster: 'keen' }, sources: { writeKey: source } }));

// Encodes a header map as the ABI does: count, sizes, then names and values, each followed by NUL.
function pairs(list) {
  const numbers = Buffer.alloc(4 + 8 * list.length);
  numbers.writeUInt32LE(list.length);
  list.forEach(([name, value], at) => {
    numbers.writeUInt32LE(name.length, 4 + 8 * at);
    numbers.writeUInt32LE(value.length, 8 + 8 * at);
  });
  return Buffer.concat([numbers, Buffer.from(list.flat().map((text) => `${text}\0`).join(''))]);
}

function start(path, body) {
  const headers = pairs([
    [':authority', '127.0.0.1'], [':path', path], [':method', 'POST'], [':scheme', 'http'],
    ['content-length', String(body.length)], ['content-type', 'application/json'],
    ['authorization', 'Basic d3JpdGVLZXk6'], ['user-agent', 'analytics-node/2.2.0'],
    ['x-request-id', '0b0f5c5a-6c1c-4fbe-8a55-8a7b1f2e9d3a'],
  ]);
  const status = pairs([[':status', '200']]);
  const buffers = { 0: body, 7: config };
  const calls = [];
  const replies = new Map();
  let time = 1_795_471_392_908n * 1_000_000n;
  let tokens = 0;
  let answers = 0;
  let filter;
  const bytes = () => new Uint8Array(filter.memory.buffer);
  const number = (at, value) => new DataView(filter.memory.buffer).setUint32(at, value, true);
  const give = (given, data, size) => {
    // The SDK names its allocator differently from builds that were written without it.
    const at = (filter.proxy_on_memory_allocate ?? filter.malloc)(given.length);
    bytes().set(given, at);
    number(data, at);
    number(size, given.length);
    return 0;
  };
  // Returns Keen's reply to a body. Bodies of equal size have the same collections here.
  const reply = (at, size) => {
    if (!replies.has(size)) {
      const events = JSON.parse(Buffer.from(bytes().subarray(at, at + size)));
      const results = Object.entries(events).map(([name, list]) =>
        `${JSON.stringify(name)}: [${list.map(() => '{"success": true}').join(', ')}]`);
      replies.set(size, Buffer.from(`{${results.join(', ')}}`));
    }
    return replies.get(size);
  };
  const host = {
    proxy_get_current_time_nanoseconds(at) {
      new DataView(filter.memory.buffer).setBigUint64(at, (time += 20_000n), true);
      return 0;
    },
    proxy_get_buffer_bytes: (which, from, most, data, size) => give(buffers[which], data, size),
    // Map 6 is the response of a callout.
    proxy_get_header_map_pairs: (map, data, size) => give(map === 6 ? status : headers, data, size),
    proxy_get_header_map_value: (map, name, length, data, size) =>
      Buffer.from(bytes().subarray(name, name + length)).toString() === ':status' ? give(Buffer.from('200'), data, size) : 1,
    // Level 2 is "info".
    proxy_get_log_level: (at) => (number(at, 2), 0),
    proxy_get_shared_data: () => 1,
    proxy_register_shared_queue: (name, length, id) => (number(id, 1), 0),
    proxy_dequeue_shared_queue: () => 7,
    proxy_send_local_response: () => (answers++, 0),
    proxy_http_call(cluster, length, map, mapLength, at, size, trailers, trailersLength, timeout, token) {
      // The filter checks at start-up whether it may make callouts, to a cluster that does not exist.
      if (size === 0) return 2;
      number(token, ++tokens);
      calls.push([tokens, reply(at, size)]);
      return 0;
    },
  };
  const imports = WebAssembly.Module.imports(module).map(({ name }) => [name, host[name] ?? (() => 0)]);
  filter = new WebAssembly.Instance(module, { env: Object.fromEntries(imports) }).exports;
  filter._initialize();
  filter.proxy_on_context_create(1, 0);
  if (!filter.proxy_on_configure(1, config.length)) throw new Error('the filter rejected its configuration');
  let stream = 1;

  // Runs one round of concurrent requests. Returns nanoseconds to receive them, to map and send them, and to respond.
  return (callers) => {
    const first = stream + 1;
    answers = 0;
    const clock = () => process.hrtime.bigint();
    const began = clock();
    for (let caller = 0; caller < callers; caller++) {
      filter.proxy_on_context_create(++stream, 1);
      filter.proxy_on_request_headers(stream, 9, 0);
      filter.proxy_on_request_body(stream, body.length, 0);
      filter.proxy_on_request_body(stream, body.length, 1);
    }
    const arrived = clock();
    filter.proxy_on_queue_ready(1, 1);
    const mapped = clock();
    for (let turn = 0; answers < callers && turn < 10; turn++) {
      for (const [token, reply] of calls.splice(0)) {
        buffers[4] = reply;
        filter.proxy_on_http_call_response(1, token, 3, reply.length, 0);
      }
      filter.proxy_on_queue_ready(1, 1);
    }
    const answered = clock();
    if (answers !== callers) throw new Error(`${answers} of ${callers} requests were answered`);
    for (let id = first; id <= stream; id++) {
      filter.proxy_on_response_headers(id, 3, 0);
      filter.proxy_on_done(id);
      filter.proxy_on_delete?.(id);
    }
    return [arrived - began, mapped - arrived, answered - mapped].map(Number);
  };
}

const data = (name) => readFileSync(new URL(`data/${name}.json`, import.meta.url));
const properties = Object.fromEntries(Array.from({ length: 40 }, (_, at) => [`property ${at}`, 'a value as is usual']));
const wide = Buffer.from(JSON.stringify({ event: 'Wide', userId: 'u', messageId: 'm', properties }));
for (const [name, path, body, events, callers] of [
  ['track', '/v1/track', data('track'), 1, 30],
  ['40 properties', '/v1/track', wide, 1, 30],
  ['batch', '/v1/batch', data('batch'), 100, 4],
]) {
  const round = start(path, body);
  const least = [Infinity, Infinity, Infinity];
  const end = Date.now() + 4000;
  while (Date.now() < end) {
    // Several rounds per sample, because the clock is coarse.
    const sums = [0, 0, 0];
    for (let turn = 0; turn < 40; turn++) round(callers).forEach((time, at) => (sums[at] += time / 40 / callers));
    sums.forEach((time, at) => (least[at] = Math.min(least[at], time)));
  }
  const [arrival, mapping, answering] = least.map((time) => (time / events / 1000).toFixed(2));
  console.log(`${name}: per event: receive ${arrival} us, map and send ${mapping} us, respond ${answering} us`);
}
