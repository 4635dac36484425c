// Code that the server programs of this directory share: their calls, and the report.

/** The address of Envoy: http://host:port. */
export const edge = process.env.EDGE
export const writeKey = process.env.WRITE_KEY
export const errors = []

const results = []

/**
 * Makes one call of each type, and more tracks. The SDK passes the result of each call to its callback.
 * `timestamp` is the SDK's name for the time of a call.
 */
export function calls(analytics, timestamp = 'timestamp') {
  const call = (type, message) =>
    results.push(new Promise((resolve) => analytics[type](message, (error) => resolve(error ? String(error) : null))))

  call('identify', { userId: 'u-1', traits: { plan: 'pro' } })
  call('track', {
    userId: 'u-1',
    event: 'Order Completed',
    properties: { item: 'T-Shirt', revenue: 19.99, sizes: [1, 2], buyer: { name: 'é😀' } },
    context: { ip: '24.5.68.47' },
  })
  call('track', { userId: 'u-1', event: 'Elsewhere', integrations: { All: true, 'Keen IO': false } })
  call('track', { anonymousId: 'a-1', event: 'Old Event', [timestamp]: new Date('2012-12-02T00:30:12.984Z') })
  call('page', { userId: 'u-1', category: 'Docs', name: 'Index', properties: { url: 'https://example.com/docs' } })
  call('screen', { userId: 'u-1', name: 'Main' })
  call('group', { userId: 'u-1', groupId: 'g-1', traits: { name: 'Initech' } })
  call('alias', { userId: 'u-1', previousId: 'a-1' })
}

/** Waits for the last callback and prints the report. */
export async function finish() {
  const failed = (await Promise.all(results)).filter(Boolean)
  console.log(JSON.stringify({ delivered: results.length - failed.length, errors: [...errors, ...failed] }))
}
