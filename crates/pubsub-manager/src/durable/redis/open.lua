-- KEYS stream, channel, group, timers, heard.
-- ARGV epoch, group, start, known incarnation, fresh incarnation, most groups, consumer.
-- Answers the group's incarnation, or 0 where there are too many groups.
local s, m, g, t = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, group, start, known, fresh = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local groups, found = groups_of(s), false
for _, one in ipairs(groups) do found = found or field(one, 'name') == group end
local held = redis.call('HGET', g, 'inc')
if not found and #groups >= tonumber(ARGV[6]) then return 0 end
redis.call('ZADD', KEYS[5], int(clock()), ARGV[7])
if found and held and (known == '' or known == held) then return held end
if found and held then
  -- Somebody who knew nothing of the loss has created it anew: what it skipped may be ours.
  if not redis.call('HGET', g, 'again') then
    redis.call('XGROUP', 'SETID', s, group, '0')
    redis.call('HDEL', g, 'n')
    redis.call('HSET', g, 'again', 1)
    lose(g, 'gone')
  end
  return held
end
local lost = known ~= '' or held
if not found then
  if lost then start = '0' end
  redis.call('XGROUP', 'CREATE', s, group, start, 'MKSTREAM')
  redis.call('DEL', t)
  redis.call('HDEL', g, 'n')
end
redis.call('HSET', g, 'inc', fresh, 'epoch', epoch)
if start == '$' and not found then
  local _, n = parts(last_id(s, m))
  redis.call('HSET', g, 'n', int(n))
end
if lost then
  redis.call('HSET', g, 'again', 1)
  lose(g, 'gone')
end
return fresh
