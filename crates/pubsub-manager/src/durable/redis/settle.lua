-- KEYS stream, group, timers, dead letters. ARGV group, consumer, then id, deliveries, what, argument, argument of each.
-- Answers for each: 0 done, 1 superseded, 2 not pending, 3 too many dead letters.
local s, g, t, x = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer = ARGV[1], ARGV[2]
local now, out, acked = clock(), {}, 0
if redis.pcall('XPENDING', s, group).err then
  for _ = 3, #ARGV, 5 do out[#out + 1] = 2 end
  return out
end
local function settle(id, count, what, a, b)
  local p = redis.call('XPENDING', s, group, id, id, 1)[1]
  if not p then return 2 end
  if tonumber(p[4]) ~= count or (p[2] ~= consumer and p[2] ~= '~waiting') then return 1 end
  if what == 'ack' then
    redis.call('XACK', s, group, id)
    redis.call('ZREM', t, id)
    acked = acked + 1
  elseif what == 'retry' then park(s, g, t, group, id, now + tonumber(a))
  elseif what == 'release' then park(s, g, t, group, id, now, count - 1)
  elseif what == 'dead' then
    if not bury(s, g, t, x, group, id, count, a, tonumber(b)) then
      park(s, g, t, group, id, now + 60000)
      return 3
    end
  elseif p[2] ~= consumer then return 1
  else redis.call('ZADD', t, int(now + tonumber(a)), id) end
  return 0
end
for i = 3, #ARGV, 5 do
  out[#out + 1] = settle(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
end
if acked > 0 then redis.call('HINCRBY', g, 'acked', acked) end
return out
