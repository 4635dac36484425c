-- Sends one call to Keen per request and answers when Keen has responded.
local json, map = require("json"), require("map")
function envoy_on_request(handle)
  local body = handle:body()
  local collections = {}
  map(json, body:getBytes(0, body:length()), collections)
  local headers = handle:httpCall("keen", {
    [":method"] = "POST", [":path"] = "/3.0/projects/5181bcd23843312d87000000/events", [":authority"] = "api.keen.io",
    ["content-type"] = "application/json", authorization = "KEY",
  }, json.encode(collections), 5000)
  local ok = headers and headers[":status"] == "200"
  handle:respond({[":status"] = ok and "200" or "503", ["content-type"] = "application/json"}, '{"success":true}')
end
