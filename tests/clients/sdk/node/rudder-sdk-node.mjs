// @rudderstack/rudder-sdk-node, as an application uses it: node rudder-sdk-node.mjs PACKAGE
import { calls, edge, errors, finish, writeKey } from './program.mjs'

const { default: RudderAnalytics } = await import(process.argv[2])

const errorHandler = (error) => errors.push(String(error))
// docs
const analytics = new RudderAnalytics(writeKey, { dataPlaneUrl: edge, errorHandler })
// /docs

calls(analytics, 'originalTimestamp')
await analytics.flush().catch((error) => errors.push(String(error)))
finish()
