// Opens a page that uses an SDK in Chromium:
// browser.mjs SDK standard|batching same|cross stay|leave EVENTS POSTS
//
// EVENTS and POSTS are the number of events in Keen and of POSTs answered 200 that the visit waits for.
import { setTimeout as pause } from 'node:timers/promises'
import { eventCount, launch } from './chromium.mjs'

const [sdk, strategy, origin, visit, events, posts] = process.argv.slice(2)
const { EDGE: edge, WRITE_KEY: writeKey } = process.env

// The same listener under another name is another origin.
const site = origin === 'same' ? edge : edge.replace('localhost', '127.0.0.1')
const batching = strategy === 'batching' && (visit === 'leave' ? 60_000 : 1000)
const settings = { sdk, writeKey, edge, batching }

const { browser, page, seen, complaints } = await launch()
await page.goto(`${site}/site/page.html#${encodeURIComponent(JSON.stringify(settings))}`)
const timeout = pause(30_000, null, { ref: false })
const report = (await Promise.race([page.evaluate('report'), timeout])) ?? { delivered: 0, errors: [] }
if (!report.delivered) report.errors.push(`no report from the SDK; requests: ${seen.join(', ')}`)
// With batching a call is reported as soon as it is in the batch. The batch would leave much later.
if (visit === 'leave') await page.goto('about:blank')

const isStored = async () => (await eventCount()) >= Number(events)
const isAnswered = () => visit === 'leave' || seen.filter((line) => line.startsWith('200 POST')).length >= Number(posts)
for (const end = Date.now() + 20_000; !(isAnswered() && (await isStored())) && Date.now() < end; ) await pause(50)
if (visit === 'stay') {
  // An unexpected POST would arrive now.
  await page.waitForLoadState('networkidle')
  const queued = await page.evaluate(`Object.keys(localStorage).filter((key) => key.startsWith('persisted-queue') &&
    key.endsWith(':items') && JSON.parse(localStorage[key] ?? '[]').length > 0)`)
  complaints.push(...queued.map((key) => `still queued: ${key}`))
}
await browser.close()
console.log(JSON.stringify({ ...report, errors: [...report.errors, ...complaints] }))
