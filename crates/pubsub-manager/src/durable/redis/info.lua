-- KEYS stream, channel, group, dead letters, heard. ARGV group. Answers {} where the group is gone, else consumers,
-- pending, waiting, lag, age of the oldest or -1, paused, dead letters, losses, delivered, redelivered, acknowledged.
local s, m, g, x, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local found
for _, one in ipairs(groups_of(s)) do if field(one, 'name') == group then found = one end end
if not found then return {} end
local pending = redis.call('XPENDING', s, group)
local waiting, consumers = 0, redis.call('ZCARD', KEYS[5])
for _, one in ipairs(pending[4] or {}) do if one[1] == '~waiting' then waiting = tonumber(one[2]) end end
local oldest, lag = nil, 0
if tonumber(pending[1]) > 0 then oldest = parts(pending[2]) end
local place = field(found, 'last-delivered-id')
local next = redis.call('XRANGE', s, '(' .. place, '+', 'COUNT', 1)[1]
if next then
  local ms, n = parts(next[1])
  local _, last = parts(last_id(s, m))
  lag = last - n + 1
  if not oldest or ms < oldest then oldest = ms end
end
local held = redis.call('HMGET', g, 'paused', 'losses', 'delivered', 'redelivered', 'acked')
return {consumers, tonumber(pending[1]), waiting, lag, oldest and math.max(0, clock() - oldest) or -1,
  tonumber(held[1] or 0), redis.call('XLEN', x), tonumber(held[2] or 0), tonumber(held[3] or 0),
  tonumber(held[4] or 0), tonumber(held[5] or 0)}
