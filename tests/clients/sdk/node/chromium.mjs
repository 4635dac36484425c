// Chromium for the programs of this directory.
import { chromium } from 'playwright-core'

/** Starts Chromium with one page, and records its requests and complaints. */
export async function launch(more = []) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--ignore-certificate-errors', ...more,
    ],
  })
  const page = await browser.newPage({ ignoreHTTPSErrors: true })
  const complaints = []
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('console', (message) => {
    // The browser itself logs the status of an injected fault.
    const isBrowser = message.text().startsWith('Failed to load resource')
    if (['error', 'warning'].includes(message.type()) && !isBrowser) complaints.push(message.text())
  })
  const seen = []
  page.on('response', (response) => seen.push(`${response.status()} ${response.request().method()} ${response.url()}`))
  page.on('requestfailed', (request) => seen.push(`${request.failure()?.errorText} ${request.method()} ${request.url()}`))
  return { browser, page, seen, complaints }
}

/** The number of events in Keen. */
export const eventCount = async () => (await (await fetch(process.env.KEEN_EVENTS)).json()).length
