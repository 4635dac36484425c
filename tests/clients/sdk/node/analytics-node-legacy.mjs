// The older SDK analytics-node, as an application uses it: node analytics-node-legacy.mjs PACKAGE
import { calls, edge, errors, finish, writeKey } from './program.mjs'

const { default: Analytics } = await import(process.argv[2])

const errorHandler = (error) => errors.push(String(error))
// docs
const analytics = new Analytics(writeKey, { host: edge, errorHandler })
// /docs

calls(analytics)
// Before 3.5 flush returns no promise.
await Promise.resolve(analytics.flush()).catch((error) => errors.push(String(error)))
finish()
