// Sends one call to Keen per request and answers when Keen has responded. njs has no timer to batch with.
const addons = [
  { name: 'keen:ip_to_geo', input: { ip: 'ip_address' }, output: 'ip_geo_info' },
  { name: 'keen:ua_parser', input: { ua_string: 'user_agent' }, output: 'parsed_user_agent' },
  { name: 'keen:url_parser', input: { url: 'page_url' }, output: 'parsed_page_url' },
];

function event(message) {
  const out = message.properties || {};
  const context = message.context || {};
  out.userId = message.userId || message.anonymousId;
  out.page_url = out.url || (context.page && context.page.url);
  out.ip_address = context.ip;
  out.user_agent = context.userAgent;
  const used = addons.filter((addon) => out[addon.input.ip || addon.input.ua_string || addon.input.url]);
  out.keen = { timestamp: message.timestamp, addons: used, uniqueness_token: message.messageId };
  return out;
}

async function take(r) {
  const body = JSON.parse(r.requestText);
  const collections = {};
  (body.batch || [body]).forEach((message) => {
    (collections[message.event] = collections[message.event] || []).push(event(message));
  });
  const reply = await ngx.fetch('http://127.0.0.1:UPSTREAM_PORT/3.0/projects/5181bcd23843312d87000000/events', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: 'KEY' },
    body: JSON.stringify(collections),
  });
  r.headersOut['Content-Type'] = 'application/json';
  r.return(reply.status === 200 ? 200 : 503, '{"success":true}');
}

export default { take };
