-- ARGV: now, capacity, template, node, token, visitor, hourly, daily, ttl.
local template, node, token = ARGV[3], ARGV[4], ARGV[5]
local hourly, daily, ttl = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local HOUR, DAY, UNHEARD = 3600000, 86400000, 3000
local key = P .. ':token:' .. template .. ':' .. token
local usage_key = P .. ':usage:' .. template .. ':' .. ARGV[6]
local limited = hourly > 0 or daily > 0

-- Two windows, each with the time when it opened and how many were had in it; one that is over is none.
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

local function answer(how, id, text)
  local hour, hour_used, day, day_used
  if limited then
    hour, hour_used, day, day_used = usage()
  end
  return {how, whole(now), time_text(hour), whole(hour_used or 0), time_text(day), whole(day_used or 0), id, text}
end

local got = redis.call('GET', key)
local until_when = got and string.match(got, '^over:(%d+)$')
if until_when then
  if tonumber(until_when) > now then
    return {'empty'}
  end
elseif got then
  local r = load(got)
  if r and r.state == 'assigned' and not over(r) then
    return answer('granted', r.id, r.text)
  end
  return {'empty'}
end

local hour, hour_used, day, day_used
if limited then
  hour, hour_used, day, day_used = usage()
  if (hourly > 0 and hour_used >= hourly) or (daily > 0 and day_used >= daily) then
    return answer('limited', '', '')
  end
end

local all = P .. ':ready:' .. template

-- Whether the owner surely knows that there is this node: else it might vouch for what this node handed out, if both the
-- store and this node were lost in this moment.
local function knows(owner, node)
  local joined = owner ~= node and tonumber(redis.call('HGET', P .. ':joined', node))
  local informed = joined and tonumber(redis.call('HGET', P .. ':informed', owner))
  return not informed or informed >= joined
end

-- The longest-ready of all whose node is fit to have visitors.
local function of_any()
  local fit = {}
  -- The first of all is nearly always the one.
  for _, places in ipairs({{0, 0}, {1, 63}}) do
    for _, id in ipairs(redis.call('ZRANGE', all, places[1], places[2])) do
      local owner = load(id).node
      if fit[owner] == nil then
        fit[owner] = not draining(owner) and (silence(owner) or 0) <= UNHEARD and knows(owner, node)
      end
      if fit[owner] then
        return id
      end
    end
  end
end

local own = redis.call('ZRANGE', all .. ':' .. node, 0, 0)[1]
local first = own and not draining(node) and own or of_any()
if not first then
  return {'empty'}
end
local before = load(first)
local r = copy(before)
r.state, r.token, r.assigned, r.deadline = 'assigned', token, now, now + ttl
r.unconfirmed = true
replace(r, before)
redis.call('SET', key, r.id)
if limited then
  redis.call('HSET', usage_key, 'hour', whole(hour or now), 'hour_used', whole(hour_used + 1),
    'day', whole(day or now), 'day_used', whole(day_used + 1))
  redis.call('PEXPIRE', usage_key, DAY)
end
return answer('granted', r.id, r.text)
