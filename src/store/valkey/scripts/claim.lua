-- Assigns a ready instance to a visitor.
--
-- ARGV: now, capacity, template, node, token, visitor, hourly, daily, ttl.
-- Answers: 'empty'; or 'limited' or 'granted', the present, the two windows of the visitor's usage (each its start,
-- empty if it is not open, and its count), and with 'granted' the id and the record.
--
-- It needs no name for the call: a repeated claim is recognised by its token.
local template, node, token = ARGV[3], ARGV[4], ARGV[5]
local hourly, daily, ttl = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local HOUR, DAY, SUSPECT_AFTER = 3600000, 86400000, 3000
local key = PREFIX .. ':token:' .. template .. ':' .. token
local usage_key = PREFIX .. ':usage:' .. template .. ':' .. ARGV[6]
local is_limited = hourly > 0 or daily > 0

-- Two windows, each with its start and the number of claims in it. A window that has ended counts as not open.
local function usage()
  local u = redis.call('HMGET', usage_key, 'hour', 'hour_used', 'day', 'day_used')
  local hour, hour_used, day, day_used = tonumber(u[1]), tonumber(u[2]), tonumber(u[3]), tonumber(u[4])
  if not hour or now >= hour + HOUR then
    hour, hour_used = nil, 0
  end
  if not day or now >= day + DAY then
    day, day_used = nil, 0
  end
  return hour, hour_used, day, day_used
end

local function answer(outcome, id, text)
  local hour, hour_used, day, day_used
  if is_limited then
    hour, hour_used, day, day_used = usage()
  end
  return {outcome, whole(now), time_text(hour), whole(hour_used or 0), time_text(day), whole(day_used or 0), id, text}
end

local got = redis.call('GET', key)
local spent_until = got and string.match(got, '^over:(%d+)$')
if spent_until then
  if tonumber(spent_until) > now then
    return {'empty'}
  end
elseif got then
  local record = load_record(got)
  if record and record.state == 'assigned' and not is_over(record) then
    return answer('granted', record.id, record.text)
  end
  return {'empty'}
end

local hour, hour_used, day, day_used
if is_limited then
  hour, hour_used, day, day_used = usage()
  if (hourly > 0 and hour_used >= hourly) or (daily > 0 and day_used >= daily) then
    return answer('limited', '', '')
  end
end

local all_ready = PREFIX .. ':ready:' .. template

-- Whether the owner surely knows that the claiming node exists. An owner that does not know might, if Valkey and the
-- claiming node were lost at this moment, report as ready what was assigned by that node: see `recovery/mod.rs`.
local function knows(owner, claimant)
  local joined = owner ~= claimant and tonumber(redis.call('HGET', PREFIX .. ':joined', claimant))
  local informed = joined and tonumber(redis.call('HGET', PREFIX .. ':informed', owner))
  return not informed or informed >= joined
end

-- The longest-ready instance of all nodes whose instances may be assigned from here.
local function first_of_any_node()
  local is_claimable = {}
  -- The first in the queue nearly always fits, so it is read alone.
  for _, range in ipairs({{0, 0}, {1, 63}}) do
    for _, id in ipairs(redis.call('ZRANGE', all_ready, range[1], range[2])) do
      local owner = load_record(id).node
      if is_claimable[owner] == nil then
        is_claimable[owner] =
          not is_draining(owner) and (silence(owner) or 0) <= SUSPECT_AFTER and knows(owner, node)
      end
      if is_claimable[owner] then
        return id
      end
    end
  end
end

local preferred = redis.call('ZRANGE', all_ready .. ':' .. node, 0, 0)[1]
local first = preferred and not is_draining(node) and preferred or first_of_any_node()
if not first then
  return {'empty'}
end
local before = load_record(first)
local record = copy_record(before)
record.state, record.token, record.assigned, record.deadline = 'assigned', token, now, now + ttl
record.unconfirmed = true
replace(record, before)
redis.call('SET', key, record.id)
if is_limited then
  redis.call('HSET', usage_key, 'hour', whole(hour or now), 'hour_used', whole(hour_used + 1),
    'day', whole(day or now), 'day_used', whole(day_used + 1))
  redis.call('PEXPIRE', usage_key, DAY)
end
return answer('granted', record.id, record.text)
