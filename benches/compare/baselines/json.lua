-- JSON in pure Lua, for an Envoy without C modules.
local json = {}
local byte, find, sub, format, concat = string.byte, string.find, string.sub, string.format, table.concat
local escapes = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}
local value

local function skip(text, at) return find(text, "[^ \n\r\t]", at) or #text + 1 end

local function str(text, at)
  local from, parts = at + 1, nil
  while true do
    local stop = find(text, '["\\]', from)
    if not stop then error("cut string") end
    if byte(text, stop) == 34 then
      local tail = sub(text, from, stop - 1)
      if parts then parts[#parts + 1] = tail return concat(parts), stop + 1 end
      return tail, stop + 1
    end
    parts = parts or {}
    parts[#parts + 1] = sub(text, from, stop - 1)
    local letter = sub(text, stop + 1, stop + 1)
    if letter == "u" then
      parts[#parts + 1] = sub(text, stop, stop + 5)
      from = stop + 6
    else
      parts[#parts + 1] = escapes[letter] or letter
      from = stop + 2
    end
  end
end

local function object(text, at)
  local out = {}
  at = skip(text, at + 1)
  if byte(text, at) == 125 then return out, at + 1 end
  while true do
    local name
    name, at = str(text, skip(text, at))
    at = skip(text, at)
    out[name], at = value(text, skip(text, at + 1))
    at = skip(text, at)
    if byte(text, at) == 125 then return out, at + 1 end
    at = at + 1
  end
end

local function array(text, at)
  local out = {}
  at = skip(text, at + 1)
  if byte(text, at) == 93 then return out, at + 1 end
  while true do
    out[#out + 1], at = value(text, skip(text, at))
    at = skip(text, at)
    if byte(text, at) == 93 then return out, at + 1 end
    at = at + 1
  end
end

function value(text, at)
  local first = byte(text, at)
  if first == 34 then return str(text, at) end
  if first == 123 then return object(text, at) end
  if first == 91 then return array(text, at) end
  if first == 116 then return true, at + 4 end
  if first == 102 then return false, at + 5 end
  if first == 110 then return nil, at + 4 end
  local stop = find(text, "[^%d%.eE+-]", at) or #text + 1
  return tonumber(sub(text, at, stop - 1)), stop
end

function json.decode(text) return (value(text, skip(text, 1))) end

local special = {['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t"}
local function quoted(text) return '"' .. text:gsub('[%c"\\]', function(c) return special[c] or format("\\u%04x", byte(c)) end) .. '"' end

function json.encode(any)
  local kind = type(any)
  if kind == "string" then return quoted(any) end
  if kind == "number" then return format("%.14g", any) end
  if kind ~= "table" then return tostring(any) end
  local out = {}
  if #any > 0 then
    for i, member in ipairs(any) do out[i] = json.encode(member) end
    return "[" .. concat(out, ",") .. "]"
  end
  for name, member in pairs(any) do out[#out + 1] = quoted(name) .. ":" .. json.encode(member) end
  return "{" .. concat(out, ",") .. "}"
end

return json
