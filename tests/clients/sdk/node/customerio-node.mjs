// @customerio/cdp-analytics-node, as an application uses it: node customerio-node.mjs PACKAGE
import { calls, edge, errors, finish, writeKey } from './program.mjs'

const { Analytics } = await import(process.argv[2])

// docs
const analytics = new Analytics({ writeKey, host: edge })
// /docs

analytics.on('error', (error) => errors.push(String(error.reason ?? error.code ?? error)))
calls(analytics)
await analytics.closeAndFlush()
finish()
