-- KEYS stream, group, timers, dead letters, heard. ARGV group, what, argument. Answers 0 where there is no such group.
local s, g, t, x, group, what = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1], ARGV[2]
if redis.pcall('XPENDING', s, group).err then return 0 end
if what == 'pause' then redis.call('HSET', g, 'paused', ARGV[3])
elseif what == 'place' then
  redis.call('XGROUP', 'SETID', s, group, ARGV[3])
  redis.call('HDEL', g, 'n')
else
  redis.call('XGROUP', 'DESTROY', s, group)
  redis.call('DEL', g, t, x, KEYS[5])
end
return 1
