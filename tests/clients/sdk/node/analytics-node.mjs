// @segment/analytics-node, as an application uses it: node analytics-node.mjs PACKAGE
import { edge, writeKey, report } from './program.mjs'

const { Analytics } = await import(process.argv[2])

// docs
const analytics = new Analytics({ writeKey, host: edge })
// /docs

let requests = 0
analytics.on('http_request', () => requests++)
const errors = []
analytics.on('error', (error) => errors.push(String(error.reason ?? error.code ?? error)))
let delivered = 0
const done = (error) => (error ? errors.push(String(error)) : delivered++)

analytics.identify({ userId: 'u-1', traits: { plan: 'pro' } }, done)
analytics.track({
  userId: 'u-1',
  event: 'Order Completed',
  properties: { item: 'T-Shirt', revenue: 19.99, sizes: [1, 2], buyer: { name: 'é😀' } },
  context: { ip: '24.5.68.47' },
}, done)
analytics.track({ userId: 'u-1', event: 'Elsewhere', integrations: { All: true, 'Keen IO': false } }, done)
analytics.track({ anonymousId: 'a-1', event: 'Old Event', timestamp: new Date('2012-12-02T00:30:12.984Z') }, done)
analytics.page({ userId: 'u-1', category: 'Docs', name: 'Index', properties: { url: 'https://example.com/docs' } }, done)
analytics.screen({ userId: 'u-1', name: 'Main' }, done)
analytics.group({ userId: 'u-1', groupId: 'g-1', traits: { name: 'Initech' } }, done)
analytics.alias({ userId: 'u-1', previousId: 'a-1' }, done)
await analytics.closeAndFlush()

report({ delivered, errors, requests })
