-- Makes the indexes agree with the records, a page of all keys in each call, before any node reports to a round.
--
-- Valkey may have lost single keys, whatever its settings promise: an eviction removes whole keys. In the first phase
-- each key that has another type or an unreadable value is removed, and so is all that can be derived. In the second
-- each record gets its places in the indexes.
--
-- ARGV: now, capacity, round.
-- Answers: 'more'; 'ok' when all is done; 'over' when the round is over.
local RECOVERING = PREFIX .. ':recovering'
local KEYS_PER_CALL = 1000
if redis.call('HGET', RECOVERING, 'round') ~= ARGV[3] then
  return {'over'}
end
local phase = redis.call('HGET', RECOVERING, 'phase') or 'check'
if phase == 'done' then
  return {'ok'}
end

local function is_over_mark(text)
  return string.match(text, '^over:%d+$') ~= nil
end

local function valid_record(id)
  local key = PREFIX .. ':record:' .. id
  local record = redis.call('TYPE', key).ok == 'string' and load_record(id)
  return record and is_valid(record) and record
end

local function is_number(text)
  return text and string.match(text, '^%-?%d+$') ~= nil
end

-- Removes the members of a sorted set for which `fits` is false.
local function keep_members(key, fits)
  for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local record = valid_record(id)
    if not (record and fits(record)) then
      redis.call('ZREM', key, id)
    end
  end
end

local function keep_numbers(key)
  local fields = redis.call('HGETALL', key)
  for n = 1, #fields, 2 do
    if not is_number(fields[n + 1]) then
      redis.call('HDEL', key, fields[n])
    end
  end
end

-- Each check gets the key, its type and the part of its name after the kind. It returns whether the key stays.
local CHECKS = {
  record = function(_, _, id)
    return valid_record(id)
  end,
  token = function(key, is, rest)
    local got = is == 'string' and redis.call('GET', key)
    if not got or is_over_mark(got) then
      return got
    end
    local record = valid_record(got)
    return record and template_of(got) .. ':' .. record.token == rest
  end,
  usage = function(key, is)
    if is ~= 'hash' then
      return false
    end
    local u = redis.call('HMGET', key, 'hour', 'hour_used', 'day', 'day_used')
    return (u[1] == false) == (u[2] == false) and (u[3] == false) == (u[4] == false)
      and (not u[1] or (is_number(u[1]) and is_number(u[2]))) and (not u[3] or (is_number(u[3]) and is_number(u[4])))
  end,
  ready = function(key, is, rest)
    -- The queue of one node has the same positions as that of all.
    if is ~= 'zset' or string.find(rest, ':', 1, true) then
      return false
    end
    keep_members(key, function(record)
      return record.state == 'ready' and template_of(record.id) == rest
    end)
    return true
  end,
  due = function(key)
    keep_members(key, is_in_due)
    return true
  end,
  joined = function(key)
    keep_numbers(key)
    return true
  end,
  calls = function(_, is)
    return is == 'hash'
  end,
  node = function()
    return false
  end,
}
CHECKS.informed, CHECKS.assigned, CHECKS.counts, CHECKS.asserted = CHECKS.joined, CHECKS.node, CHECKS.node, CHECKS.node

local function check(key, kind, rest)
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and CHECKS[kind] and not CHECKS[kind](key, is, rest) then
    redis.call('UNLINK', key)
  end
end

local function index(id)
  local record = valid_record(id)
  -- A scan may return a key twice.
  if not record or redis.call('SADD', PREFIX .. ':node:' .. record.node, id) == 0 then
    return
  end
  if record.state == 'ready' then
    local queue = PREFIX .. ':ready:' .. template_of(id)
    local position = tonumber(redis.call('ZSCORE', queue, id)) or redis.call('INCR', PREFIX .. ':turn')
    if position > (tonumber(redis.call('GET', PREFIX .. ':turn')) or 0) then
      redis.call('SET', PREFIX .. ':turn', whole(position))
    elseif position < (tonumber(redis.call('GET', PREFIX .. ':front')) or 0) then
      redis.call('SET', PREFIX .. ':front', whole(position))
    end
    redis.call('ZADD', queue, position, id)
    redis.call('ZADD', queue .. ':' .. record.node, position, id)
  elseif is_in_due(record) then
    local is_assigned = record.state == 'assigned'
    local due = is_assigned and record.deadline or record.ended + RETENTION
    local score = tonumber(redis.call('ZSCORE', PREFIX .. ':due', id))
    if not score or (is_assigned and score > due) or (not is_assigned and score ~= due) then
      redis.call('ZADD', PREFIX .. ':due', due, id)
      redis.call('HSET', RECOVERING, 'due:' .. id, '1')
    end
    redis.call('SET', token_key(record), id, 'NX')
    reindex_visitor(nil, record)
  end
  if count_field(record) then
    add_to_count(count_field(record), 1)
  end
end

local pattern = string.gsub(PREFIX, '[%*%?%[%]%^\\]', '\\%0') .. ':*'
local place = redis.call('HGET', RECOVERING, 'place') or '0'
local page = redis.call('SCAN', place, 'MATCH', pattern, 'COUNT', KEYS_PER_CALL)
for _, key in ipairs(page[2]) do
  local kind, rest = string.match(string.sub(key, #PREFIX + 2), '^([^:]+):?(.*)$')
  if phase == 'check' then
    check(key, kind, rest)
  elseif kind == 'record' then
    index(rest)
  end
end
redis.call('HSET', RECOVERING, 'place', page[1], 'phase', phase, 'heard', whole(real_now))
if page[1] ~= '0' then
  return {'more'}
end
if phase == 'check' then
  redis.call('HSET', RECOVERING, 'phase', 'index')
  return {'more'}
end
for _, node in ipairs(redis.call('HKEYS', PREFIX .. ':nodes')) do
  redis.call('ZADD', PREFIX .. ':beats', 'NX', whole(now), node)
end
redis.call('HSET', RECOVERING, 'phase', 'done')
return {'ok'}
