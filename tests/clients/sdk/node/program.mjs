// What the server programs of this folder share: the calls they make, and what they tell.

/** The address of Envoy: http://host:port. */
export const edge = process.env.EDGE
export const writeKey = process.env.WRITE_KEY
export const errors = []

const made = []

/**
 * One call of each kind. The SDK tells each call's own callback what became of it.
 * `when`: what the SDK calls the time of a call.
 */
export function calls(analytics, when = 'timestamp') {
  const call = (kind, message) =>
    made.push(new Promise((told) => analytics[kind](message, (error) => told(error ? String(error) : null))))

  call('identify', { userId: 'u-1', traits: { plan: 'pro' } })
  call('track', {
    userId: 'u-1',
    event: 'Order Completed',
    properties: { item: 'T-Shirt', revenue: 19.99, sizes: [1, 2], buyer: { name: 'é😀' } },
    context: { ip: '24.5.68.47' },
  })
  call('track', { userId: 'u-1', event: 'Elsewhere', integrations: { All: true, 'Keen IO': false } })
  call('track', { anonymousId: 'a-1', event: 'Old Event', [when]: new Date('2012-12-02T00:30:12.984Z') })
  call('page', { userId: 'u-1', category: 'Docs', name: 'Index', properties: { url: 'https://example.com/docs' } })
  call('screen', { userId: 'u-1', name: 'Main' })
  call('group', { userId: 'u-1', groupId: 'g-1', traits: { name: 'Initech' } })
  call('alias', { userId: 'u-1', previousId: 'a-1' })
}

/** Waits for the last callback, and tells how it went. */
export async function finish() {
  const failed = (await Promise.all(made)).filter(Boolean)
  console.log(JSON.stringify({ delivered: made.length - failed.length, errors: [...errors, ...failed] }))
}
