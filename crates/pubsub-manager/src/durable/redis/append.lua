-- KEYS stream, channel, wake. ARGV max_len, keep_len, keep_ms, records.
-- Answers the new length, or {slowest group} where there is no room.
local s, m, w = KEYS[1], KEYS[2], KEYS[3]
local max_len, keep_len, keep_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local count = #ARGV - 3
local ms, n = parts(last_id(s, m))
ms = math.max(ms, clock())
local len = redis.call('XLEN', s)
local need = len + count - max_len
if need > 0 or math.floor(n / 100) ~= math.floor((n + count) / 100) then
  -- What is merely kept makes room; not for a batch that could never fit.
  if need > 0 and count <= max_len then keep_len = math.min(keep_len, max_len - count) end
  local slowest = trim(s, m, keep_len, keep_ms, count <= max_len and need or nil)
  len = redis.call('XLEN', s)
  if len + count > max_len then return {slowest} end
end
redis.call('HSET', m, 'keep_len', ARGV[2], 'keep_ms', ARGV[3])
for i = 4, #ARGV - 1 do
  n = n + 1
  redis.call('XADD', s, int(ms) .. '-' .. int(n), 'r', ARGV[i])
end
add(s, m, w, int(ms) .. '-' .. int(n + 1), 'r', ARGV[#ARGV])
return len + count
