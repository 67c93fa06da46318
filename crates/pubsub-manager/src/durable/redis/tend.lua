-- KEYS stream, channel, timers, heard. ARGV group, milliseconds after which a consumer is forgotten.
local s, m, t, h, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local pending = redis.pcall('XPENDING', s, group)
if pending.err then return 0 end
local keep = redis.call('HMGET', m, 'keep_len', 'keep_ms')
if keep[1] and keep[2] then trim(s, m, tonumber(keep[1]), tonumber(keep[2])) end
local busy = {}
for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', s, group)) do
  busy[field(one, 'name')] = tonumber(field(one, 'pending')) > 0
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', h, '-inf', int(clock() - tonumber(ARGV[2])))) do
  if not busy[name] then
    redis.call('ZREM', h, name)
    redis.call('XGROUP', 'DELCONSUMER', s, group, name)
  end
end
-- What is pending is due at some time, also where somebody deleted the timers.
if tonumber(pending[1]) > redis.call('ZCARD', t) then
  local from = '-'
  for _ = 1, 10 do
    local some = redis.call('XPENDING', s, group, from, '+', 1000)
    for _, p in ipairs(some) do
      redis.call('ZADD', t, 'NX', int(clock()), p[1])
      from = '(' .. p[1]
    end
    if #some < 1000 then break end
  end
end
return 1
