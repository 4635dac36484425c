-- Answers at once. Sends one call to Keen per 100 events, or every half second, and ignores its response.
local json, map = require("cjson"), require("map")
local this = {pending = {}, count = 0}

local function send(_, payload)
  local socket = ngx.socket.tcp()
  socket:settimeout(5000)
  if not socket:connect("127.0.0.1", UPSTREAM_PORT) then return end
  socket:send({"POST /3.0/projects/5181bcd23843312d87000000/events HTTP/1.1\r\nHost: api.keen.io\r\nAuthorization: KEY\r\n",
    "Content-Type: application/json\r\nContent-Length: ", #payload, "\r\n\r\n", payload})
  local length = 0
  while true do
    local line = socket:receive("*l")
    if not line then return socket:close() end
    length = tonumber(line:lower():match("^content%-length: (%d+)")) or length
    if line == "" then break end
  end
  socket:receive(length)
  socket:setkeepalive(60000, 64)
end

local function flush()
  if this.count == 0 then return end
  local payload = json.encode(this.pending)
  this.pending, this.count = {}, 0
  ngx.timer.at(0, send, payload)
end

function this.start() ngx.timer.every(0.5, flush) end

function this.take()
  ngx.req.read_body()
  this.count = this.count + map(json, ngx.req.get_body_data() or "{}", this.pending)
  if this.count >= 100 then flush() end
  ngx.header["Content-Type"] = "application/json"
  ngx.print('{"success":true}')
end

return this
