-- Assigns a ready instance to a visitor.
--
-- ARGV: now, capacity, template, node, token, visitor, hourly, daily, concurrent, ttl.
-- Answers: 'empty'; or 'limited' or 'granted', the present, when the visitor may have one more instance at a time
-- (empty for now), the usages of the visitor's networks (see `append_usages`; none without hourly and daily limits), and
-- with 'granted' the id and the record.
--
-- It needs no name for the call: a repeated claim is recognised by its token.
local template, node, token, visitor = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local hourly, daily, concurrent, ttl = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local SUSPECT_AFTER = 3000
local key = PREFIX .. ':token:' .. template .. ':' .. token

local function usages()
  return (hourly > 0 or daily > 0) and usages_of(template, visitor) or {}
end

local function granted(record, usages)
  local answer = append_usages({'granted', whole(now), ''}, usages)
  answer[#answer + 1], answer[#answer + 2] = record.id, record.text
  return answer
end

-- When so many of the visitor's instances have reached their deadlines that the visitor may have one more; nil for now.
local function next_end()
  local latest
  for _, network in ipairs(concurrent > 0 and networks_of(visitor) or {}) do
    local assigned, after = assigned_key(template, network.name), '(' .. whole(now)
    local excess = redis.call('ZCOUNT', assigned, after, '+inf') - concurrent * network.factor
    if excess >= 0 then
      local last = redis.call('ZRANGE', assigned, after, '+inf', 'BYSCORE', 'LIMIT', excess, 1, 'WITHSCORES')
      latest = math.max(latest or 0, tonumber(last[2]))
    end
  end
  return latest
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
    return granted(record, usages())
  end
  return {'empty'}
end

local charged = usages()
local may_claim_at = next_end()
if may_claim_at or is_used_up(charged, hourly, daily) then
  return append_usages({'limited', whole(now), time_text(may_claim_at)}, charged)
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
      local record = load_record(id)
      if not record then
        error('the queue has an instance without a record')
      end
      local owner = record.node
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
if not before or before.state ~= 'ready' then
  error('the queue has an instance that is not ready')
end
local record = copy_record(before)
record.state, record.token, record.assigned, record.deadline = 'assigned', token, now, now + ttl
record.unconfirmed = true
record.visitor = (hourly > 0 or daily > 0 or concurrent > 0) and visitor or ''
-- The token comes first: if a later command fails because data is damaged, a repeated claim gets this instance and no
-- other.
redis.call('SET', key, record.id)
replace(record, before)
charge(charged)
return granted(record, charged)
