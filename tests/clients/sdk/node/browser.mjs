// Opens a page that uses @segment/analytics-next, in Chromium:
// browser.mjs SDK standard|batching same|cross stay|leave EVENTS POSTS
import { chromium } from 'playwright-core'
import { setTimeout as pause } from 'node:timers/promises'

const [sdk, strategy, origin, visit, events, posts] = process.argv.slice(2)
const { EDGE: edge, WRITE_KEY: writeKey, KEEN_EVENTS: keenEvents, CHROMIUM: executablePath } = process.env

// The same listener by another name is another origin.
const site = origin === 'same' ? edge : edge.replace('localhost', '127.0.0.1')
const batching = strategy === 'batching' && (visit === 'leave' ? 60_000 : 1000)
const settings = { sdk, writeKey, edge, batching }

const browser = await chromium.launch({
  executablePath,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--ignore-certificate-errors',
  ],
})
const page = await browser.newPage({ ignoreHTTPSErrors: true })
const complaints = []
page.on('pageerror', (error) => complaints.push(String(error)))
page.on('console', (message) => {
  // What the browser itself says of a status that the test ordered is no word of the SDK's.
  const own = message.text().startsWith('Failed to load resource')
  if (['error', 'warning'].includes(message.type()) && !own) complaints.push(message.text())
})

const seen = []
page.on('response', (response) => seen.push(`${response.status()} ${response.request().method()} ${response.url()}`))
page.on('requestfailed', (request) => seen.push(`${request.failure()?.errorText} ${request.method()} ${request.url()}`))

await page.goto(`${site}/site/page.html#${encodeURIComponent(JSON.stringify(settings))}`)
const silent = pause(30_000, null, { ref: false })
const report = (await Promise.race([page.evaluate('told'), silent])) ?? { delivered: 0, errors: [] }
if (!report.delivered) report.errors.push(`the SDK said nothing; requests: ${seen.join(', ')}`)
// A batch is told of when the SDK holds it. It would send it much later.
if (visit === 'leave') await page.goto('about:blank')

/** Waits until Keen has the events, and all POSTs were answered 200; and below a while longer for one too many. */
const stored = async () => (await (await fetch(keenEvents)).json()).length >= Number(events)
const taken = () => visit === 'leave' || seen.filter((line) => line.startsWith('200 POST')).length >= Number(posts)
for (const until = Date.now() + 20_000; !(taken() && (await stored())) && Date.now() < until; ) await pause(50)
if (visit === 'stay') {
  await page.waitForLoadState('networkidle')
  const queued = await page.evaluate(`Object.keys(localStorage).filter((key) => key.startsWith('persisted-queue') &&
    key.endsWith(':items') && JSON.parse(localStorage[key] ?? '[]').length > 0)`)
  complaints.push(...queued.map((key) => `still queued: ${key}`))
}
await browser.close()
console.log(JSON.stringify({ ...report, errors: [...report.errors, ...complaints] }))
