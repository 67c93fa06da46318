-- KEYS stream, channel, wake, dead letters. ARGV group, dead letter, 'retry' or 'drop'.
-- Answers 0 no such group, 1 no such letter, 2 done.
local s, m, w, x = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.pcall('XPENDING', s, ARGV[1]).err then return 0 end
local entry = redis.call('XRANGE', x, ARGV[2], ARGV[2])[1]
if not entry then return 1 end
if ARGV[3] == 'retry' then
  local ms, n = parts(last_id(s, m))
  local id = int(math.max(ms, clock())) .. '-' .. int(n + 1)
  add(s, m, w, id, 'r', field(entry[2], 'r') or '', 'g', ARGV[1])
end
redis.call('XDEL', x, ARGV[2])
return 2
