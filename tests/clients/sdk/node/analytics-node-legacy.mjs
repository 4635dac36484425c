// analytics-node, the older SDK, as an application uses it: node analytics-node-legacy.mjs PACKAGE
import { calls, edge, errors, finish, writeKey } from './program.mjs'

const { default: Analytics } = await import(process.argv[2])

// docs
const analytics = new Analytics(writeKey, { host: edge })
// /docs

calls(analytics)
await analytics.flush().catch((error) => errors.push(String(error)))
finish()
