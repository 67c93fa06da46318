-- KEYS group. ARGV number: the group was told of its losses up to there.
local told, number = tonumber(redis.call('HGET', KEYS[1], 'told') or 0), tonumber(ARGV[1])
if number <= told then return 0 end
redis.call('HSET', KEYS[1], 'told', ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'lost') or 0) == number then
  redis.call('HDEL', KEYS[1], 'missed', 'unknown')
end
return 1
