-- KEYS stream, channel, group, timers, dead letters, heard. ARGV epoch, group, consumer, incarnation, max, max bytes, ack timeout,
-- most deliveries, most dead letters, where to go on among the consumer's own ('' once through), ids that it holds.
-- Answers {'gone'}, or {state, now, last id, milliseconds until something is due, loss, told, missed, unknown, cause, own,
-- dead, then id, deliveries, record of each}.
local s, m, g, t, x = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, own = ARGV[2], ARGV[3], ARGV[10]
local max, max_bytes, ack = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local most, most_dead = tonumber(ARGV[8]), tonumber(ARGV[9])
local held = redis.call('HMGET', g, 'inc', 'epoch', 'paused', 'n')
if held[1] ~= ARGV[4] or redis.pcall('XPENDING', s, group).err then return {'gone'} end
if held[2] ~= ARGV[1] then
  lose(g, 'replaced')
  redis.call('HSET', g, 'epoch', ARGV[1])
end
local now, dead, bytes, given, again = clock(), 0, 0, {}, 0
redis.call('ZADD', KEYS[6], int(now), consumer)
local function answer(state)
  local told = redis.call('HMGET', g, 'lost', 'told', 'missed', 'unknown', 'cause')
  local due = redis.call('ZRANGE', t, 0, 0, 'WITHSCORES')[2]
  local out = {state, int(now), last_id(s, m) or '0-0', due and int(math.max(0, tonumber(due) - now)) or '-1',
    told[1] or '0', told[2] or '0', told[3] or '0', told[4] or '0', told[5] or '', own, int(dead)}
  for i = 1, #given do out[#out + 1] = given[i] end
  return out
end
if held[3] == '1' then return answer('paused') end
local holds = {}
for i = 11, #ARGV do holds[ARGV[i]] = true end
local function room() return max - #given / 3 end
local function give(id, count, record)
  redis.call('ZADD', t, int(now + ack), id)
  bytes = bytes + #record
  given[#given + 1] = id
  given[#given + 1] = int(count)
  given[#given + 1] = record
end
-- Delivers again what is pending with somebody.
local function repeated(p)
  local id, by, count = p[1], p[2], tonumber(p[4])
  if count >= most then
    local last = by == '~waiting' and '' or ', last by ' .. by
    local reason = 'not settled after ' .. int(count) .. ' deliveries' .. last
    if bury(s, g, t, x, group, id, count, reason, most_dead) then dead = dead + 1
    else park(s, g, t, group, id, now + 60000) end
    return
  end
  local entry = redis.call('XCLAIM', s, group, consumer, 0, id)[1]
  if entry and entry[2] then
    again = again + 1
    give(id, count + 1, field(entry[2], 'r') or '')
    return
  end
  redis.call('XACK', s, group, id)
  redis.call('ZREM', t, id)
  lose(g, 'removed', 1)
end
while own ~= '' and room() > 0 and bytes < max_bytes do
  local pending = redis.call('XPENDING', s, group, own, '+', 32, consumer)
  local through = #pending < 32
  for _, p in ipairs(pending) do
    if room() <= 0 or bytes >= max_bytes then through = false break end
    if not holds[p[1]] then repeated(p) end
    own = '(' .. p[1]
  end
  if through then own = '' end
end
if room() > 0 and bytes < max_bytes then
  local due = redis.call('ZRANGEBYSCORE', t, '-inf', int(now), 'LIMIT', 0, int(room()))
  -- What became due in the same millisecond is ordered by letters there.
  table.sort(due, function(a, b)
    local ams, an = parts(a)
    local bms, bn = parts(b)
    return ams < bms or (ams == bms and an < bn)
  end)
  for _, id in ipairs(due) do
    if bytes >= max_bytes then break end
    local p = redis.call('XPENDING', s, group, id, id, 1)[1]
    if not p then redis.call('ZREM', t, id)
    elseif p[2] == consumer and holds[id] then redis.call('ZADD', t, int(now + ack), id)
    else repeated(p) end
  end
end
local last = held[4] and tonumber(held[4])
while room() > 0 and bytes < max_bytes do
  local want = math.min(room(), 32)
  local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', int(want), 'STREAMS', s, '>')
  local entries = read and read[1][2] or {}
  for _, entry in ipairs(entries) do
    local _, n = parts(entry[1])
    if last and n > last + 1 then lose(g, 'removed', n - last - 1) end
    last = n
    local only = field(entry[2], 'g')
    if only and only ~= group then redis.call('XACK', s, group, entry[1])
    else give(entry[1], 1, field(entry[2], 'r') or '') end
  end
  if #entries > 0 then redis.call('HSET', g, 'n', int(last)) end
  if #entries < want then break end
end
if #given > 0 then redis.call('HINCRBY', g, 'delivered', #given / 3) end
if again > 0 then redis.call('HINCRBY', g, 'redelivered', again) end
return answer('ok')
