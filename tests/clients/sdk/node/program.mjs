// What each program of this folder is told, and what it tells.

/** The address of Envoy: http://host:port. */
export const edge = process.env.EDGE
export const writeKey = process.env.WRITE_KEY

/** The SDK's own view of how it went: {delivered, errors, requests}. */
export const report = (outcome) => console.log(JSON.stringify(outcome))
