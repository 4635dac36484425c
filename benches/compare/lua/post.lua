-- Script for wrk: posts the file $BODY, and prints its measurements as one line of JSON.
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Basic d3JpdGVLZXk6"
wrk.headers["User-Agent"] = "analytics-node/2.2.0"

function done(summary, latency)
  local e = summary.errors
  io.write(string.format('report {"requests":%d,"us":%d,"p50":%.0f,"p99":%.0f,"errors":%d}\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
