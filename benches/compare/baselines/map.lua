-- Maps track calls to Keen events without sanitizing names, correcting clock skew or retrying.
local IP = {name = "keen:ip_to_geo", input = {ip = "ip_address"}, output = "ip_geo_info"}
local UA = {name = "keen:ua_parser", input = {ua_string = "user_agent"}, output = "parsed_user_agent"}
local URL = {name = "keen:url_parser", input = {url = "page_url"}, output = "parsed_page_url"}

local function event(message)
  local out, context, addons = message.properties or {}, message.context or {}, {}
  out.userId = message.userId or message.anonymousId
  out.page_url = out.url or (context.page and context.page.url)
  out.ip_address, out.user_agent = context.ip, context.userAgent
  if out.ip_address then addons[#addons + 1] = IP end
  if out.user_agent then addons[#addons + 1] = UA end
  if out.page_url then addons[#addons + 1] = URL end
  out.keen = {timestamp = message.timestamp, addons = addons, uniqueness_token = message.messageId}
  return out
end

-- Adds the events of a body to `collections`. Returns their number.
return function(json, text, collections)
  local body = json.decode(text)
  local messages = body.batch or {body}
  for _, message in ipairs(messages) do
    local list = collections[message.event]
    if not list then list = {} collections[message.event] = list end
    list[#list + 1] = event(message)
  end
  return #messages
end
