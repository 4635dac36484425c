// Opens a page with Segment's snippet in Chromium: snippet.mjs HOST MAPPED... EVENTS
//
// HOST is the host in the snippet. MAPPED are the hosts whose DNS points at Envoy. EVENTS is the number of events in Keen,
// or `elsewhere` where the calls are expected at api.segment.io. The page is https://shop.example.com/docs.
import { setTimeout as pause } from 'node:timers/promises'
import snippet from '@segment/snippet'
import { eventCount, launch } from './chromium.mjs'

const [host, ...rest] = process.argv.slice(2)
const events = rest.pop()
const { EDGE: edge, WRITE_KEY: writeKey } = process.env

// docs
const script = snippet.min({ apiKey: writeKey, host, page: false })
// /docs

const html = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Shop</title>
<link rel="icon" href="data:,">
<body>
<script>${script}</script>
<script>
  analytics.identify('u-1', { plan: 'pro' })
  analytics.page('Docs', 'Index')
  analytics.track('Order Completed', { item: 'T-Shirt', revenue: 19.99, sizes: [1, 2], buyer: { name: 'é😀' } })
  analytics.track('Elsewhere', {}, { integrations: { All: true, 'Keen IO': false } })
  analytics.screen('Main')
  analytics.group('g-1', { name: 'Initech' })
  analytics.alias('u-2', 'u-1')
</script>
</body>
</html>`

const { port } = new URL(edge)
const rules = rest.map((name) => `MAP ${name} 127.0.0.1:${port}`)
const { browser, page, seen, complaints } = await launch([
  `--host-resolver-rules=${rules.join(',')}`,
  // Chromium keeps public sites away from loopback addresses.
  '--disable-features=LocalNetworkAccessChecks',
])
await page.route('https://shop.example.com/**', (route) => route.fulfill({ contentType: 'text/html', body: html }))
const elsewhere = []
if (events === 'elsewhere') {
  await page.route('https://api.segment.io/**', (route) => {
    const headers = { 'access-control-allow-origin': 'https://shop.example.com', 'access-control-allow-headers': 'authorization, content-type' }
    if (route.request().method() === 'POST') elsewhere.push(route.request().url())
    return route.fulfill({ json: { success: true }, headers })
  })
}
// The query makes analytics.js load one of its bundles.
await page.goto('https://shop.example.com/docs?ajs_aid=a-7')
const isDone = async () =>
  events === 'elsewhere' ? elsewhere.length >= 7 : (await eventCount()) >= Number(events) && posts() >= 7
const posts = () => seen.filter((line) => line.startsWith('200 POST')).length
for (const end = Date.now() + 20_000; !(await isDone()) && Date.now() < end; ) await pause(50)
await page.waitForLoadState('networkidle')
await browser.close()
const delivered = events === 'elsewhere' ? elsewhere.length : posts()
console.log(JSON.stringify({ delivered, errors: delivered === 7 ? complaints : [...complaints, ...seen] }))
