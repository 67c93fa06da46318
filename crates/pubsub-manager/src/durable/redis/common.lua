-- What the scripts of durable channels share. Ids are `milliseconds-sequence`, sequences have no holes.
local function parts(id)
  local ms, n = string.match(id or '', '^(%d+)-(%d+)$')
  return tonumber(ms or 0), tonumber(n or 0), ms ~= nil
end
local function int(x) return string.format('%.0f', x) end
local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function field(list, name)
  for i = 1, #list, 2 do if list[i] == name then return list[i + 1] end end
end
-- The last id given, from the channel's hash, or from the stream itself where somebody deleted the hash.
local function last_id(s, m)
  local last = redis.call('HGET', m, 'last')
  if last then return last end
  local info = redis.pcall('XINFO', 'STREAM', s)
  if info.err then return nil end
  return field(info, 'last-generated-id')
end
local function groups_of(s)
  local groups = redis.pcall('XINFO', 'GROUPS', s)
  if groups.err then return {} end
  return groups
end
-- Removes what every group has acknowledged and is not to be kept: whole nodes of it, and as many as `need` says to the last
-- one. Answers the slowest group.
local function trim(s, m, keep_len, keep_ms, need)
  local floor_ms, floor_n, slowest = nil, nil, ''
  for _, group in ipairs(groups_of(s)) do
    local name = field(group, 'name')
    local ms, n = parts(field(group, 'last-delivered-id'))
    n = n + 1
    local pending = redis.call('XPENDING', s, name)
    if tonumber(pending[1]) > 0 then
      local pms, pn = parts(pending[2])
      if pms < ms or (pms == ms and pn < n) then ms, n = pms, pn end
    end
    if not floor_ms or ms < floor_ms or (ms == floor_ms and n < floor_n) then
      floor_ms, floor_n, slowest = ms, n, name
    end
  end
  local oldest = clock() - keep_ms
  local first = redis.call('XRANGE', s, '-', '+', 'COUNT', 1)[1]
  if not first then return slowest end
  local _, first_n = parts(first[1])
  local len = redis.call('XLEN', s)
  local excess = len - keep_len
  if floor_ms then
    -- By count it may only go as far as the floor, however many holes there are below it.
    local _, last_n = parts(last_id(s, m))
    local holes = math.max(0, last_n - first_n + 1 - len)
    excess = math.min(excess, floor_n - first_n - holes)
  end
  if excess > 0 then redis.call('XTRIM', s, 'MAXLEN', '~', int(len - excess)) end
  local left = (need or 0) - (len - redis.call('XLEN', s))
  if left > 0 and need <= excess then redis.call('XTRIM', s, 'MAXLEN', '=', int(len - need)) end
  if oldest > 0 then
    local bound = int(oldest) .. '-0'
    if floor_ms and floor_ms < oldest then bound = int(floor_ms) .. '-' .. int(floor_n) end
    redis.call('XTRIM', s, 'MINID', '~', bound)
  end
  return slowest
end
-- Records a loss of the group; without a number it is not known how much. What names a loss grows with the clock, so that
-- data that was rolled back does not name a new one as an old one.
local function lose(g, cause, missed)
  local number = math.max(clock(), tonumber(redis.call('HGET', g, 'lost') or 0) + 1)
  redis.call('HSET', g, 'lost', int(number), 'cause', cause)
  redis.call('HINCRBY', g, 'losses', 1)
  if missed then redis.call('HINCRBY', g, 'missed', missed) else redis.call('HSET', g, 'unknown', 1) end
end
-- Appends and wakes. `...` are the fields.
local function add(s, m, w, id, ...)
  redis.call('XADD', s, id, ...)
  redis.call('HSET', m, 'last', id)
  local woken = redis.pcall('XADD', w, 'MAXLEN', 1, id, 'w', '')
  if type(woken) == 'table' and woken.err then
    redis.call('DEL', w)
    redis.call('XADD', w, 'MAXLEN', 1, id, 'w', '')
  end
end
-- Makes a dead letter. False if there are too many.
local function bury(s, g, t, x, group, id, count, reason, max)
  if redis.call('XLEN', x) >= max then return false end
  local entry = redis.call('XRANGE', s, id, id)[1]
  local record = entry and field(entry[2], 'r') or ''
  redis.call('XADD', x, '*', 'r', record, 'i', id, 'd', int(count), 'w', reason)
  redis.call('XACK', s, group, id)
  redis.call('ZREM', t, id)
  redis.call('HINCRBY', g, 'dead', 1)
  return true
end
-- Hands an entry to the pseudo consumer of those that wait. False if the entry is no longer in the stream.
local function park(s, g, t, group, id, due, count)
  local parked
  if count then
    parked = redis.call('XCLAIM', s, group, '~waiting', 0, id, 'JUSTID', 'RETRYCOUNT', int(count))
  else
    parked = redis.call('XCLAIM', s, group, '~waiting', 0, id, 'JUSTID')
  end
  if parked[1] then
    redis.call('ZADD', t, int(due), id)
    return
  end
  redis.call('ZREM', t, id)
  lose(g, 'removed', 1)
end
