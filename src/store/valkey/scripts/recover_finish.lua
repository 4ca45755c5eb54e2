-- Finishes a round, in several calls, for a node that has reported all it knows.
--
-- Once every expected node has reported, or no report has come for the recovery timeout, the ready instances are
-- checked, a portion in each call: those that their owner did not assert are removed, and all of them if not every node
-- has reported. At the end a new term begins.
--
-- ARGV: now, capacity, round, node, recovery timeout, random name, and where the call before stopped: version,
-- template, place.
-- Answers: 'wait'; 'more', and the version, template and place with which to call again; 'verified' and the term; or
-- 'over'.
local RECOVERING = PREFIX .. ':recovering'
local RECORDS_PER_CALL = 128
if redis.call('HGET', RECOVERING, 'round') ~= ARGV[3] then
  local term = redis.call('GET', PREFIX .. ':tenure')
  local is_finished = redis.call('GET', PREFIX .. ':settled') == ARGV[3]
  if term and is_finished and redis.call('SISMEMBER', PREFIX .. ':reported', ARGV[4]) == 1 then
    return {'verified', term}
  end
  return {'over'}
end
redis.call('SADD', PREFIX .. ':reported', ARGV[4])
local is_complete = #redis.call('SDIFF', PREFIX .. ':expected', PREFIX .. ':reported') == 0
if not is_complete and real_now < (tonumber(redis.call('HGET', RECOVERING, 'heard')) or 0) + tonumber(ARGV[5]) then
  return {'wait'}
end

-- A report since the check began may add ready instances anywhere, so the check begins anew after each.
local version = (redis.call('HGET', RECOVERING, 'version') or '') .. (is_complete and ' complete' or ' incomplete')
local template, place = '', 0
if ARGV[7] == version then
  template, place = ARGV[8], tonumber(ARGV[9])
end
local templates, is_listed = {}, {}
for _, field in ipairs(redis.call('HKEYS', PREFIX .. ':counts')) do
  local name = string.match(field, '^ready:([^:]+):')
  if name and not is_listed[name] then
    is_listed[name] = true
    templates[#templates + 1] = name
  end
end
table.sort(templates)
local checked = 0
for _, name in ipairs(templates) do
  if name >= template then
    local at = name == template and place or 0
    local queue = PREFIX .. ':ready:' .. name
    while true do
      local ids = redis.call('ZRANGE', queue, at, at + RECORDS_PER_CALL - 1)
      for _, id in ipairs(ids) do
        local record = load_record(id)
        if record and record.state == 'ready' and is_complete and redis.call('SISMEMBER', PREFIX .. ':asserted:' .. record.node, id) == 1 then
          at = at + 1
        elseif record and record.state == 'ready' then
          remove(record)
        else
          -- Its record was lost after the rebuild, and a report brought back a later one.
          redis.call('ZREM', queue, id)
        end
      end
      checked = checked + #ids
      if #ids == 0 then
        break
      end
      if checked >= RECORDS_PER_CALL then
        return {'more', version, name, whole(at)}
      end
    end
  end
end

local events = tonumber(redis.call('GET', PREFIX .. ':events')) or 0
local cursor = tonumber(redis.call('HGET', RECOVERING, 'cursor')) or 0
if events > 0 or cursor > 0 or redis.call('EXISTS', PREFIX .. ':due') == 1 then
  -- The cursors of all followers have lost their meaning: each follower must see a gap.
  redis.call('SET', PREFIX .. ':events', whole(math.max(events, cursor) + COUNTER_JUMP))
  redis.call('UNLINK', PREFIX .. ':routes')
end
local epoch = (tonumber(redis.call('HGET', RECOVERING, 'epoch')) or 0) + 1
local term = whole(epoch) .. '.' .. ARGV[6] .. '.' .. redis.call('HGET', RECOVERING, 'process')
for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. ':expected')) do
  redis.call('UNLINK', PREFIX .. ':asserted:' .. node)
end
redis.call('UNLINK', RECOVERING, PREFIX .. ':expected', PREFIX .. ':ended')
redis.call('SET', PREFIX .. ':settled', ARGV[3])
redis.call('SET', PREFIX .. ':tenure', term)
return {'verified', term}
