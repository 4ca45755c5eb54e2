-- ARGV: now, capacity, round, node, patience, nonce, state, template, place. The node has told all that it knows. Once
-- every node that was there has, or nobody has told anything for the time of patience, what is ready is looked through, a piece a call:
-- what its owner did not assert is removed, and without all nodes every one. At its end there is a new tenure.
--
-- Answers 'wait'; 'more', state, template and place to go on from; 'open' and the tenure; or 'closed'.
local R = P .. ':recovering'
local PIECE = 128
if redis.call('HGET', R, 'round') ~= ARGV[3] then
  local tenure = redis.call('GET', P .. ':tenure')
  local settled = redis.call('GET', P .. ':settled') == ARGV[3]
  if tenure and settled and redis.call('SISMEMBER', P .. ':reported', ARGV[4]) == 1 then
    return {'open', tenure}
  end
  return {'closed'}
end
redis.call('SADD', P .. ':reported', ARGV[4])
local complete = #redis.call('SDIFF', P .. ':expected', P .. ':reported') == 0
if not complete and real < tonumber(redis.call('HGET', R, 'heard')) + tonumber(ARGV[5]) then
  return {'wait'}
end

-- Whatever was told since the looking through began has to be looked at too.
local state = redis.call('HGET', R, 'version') .. (complete and ' complete' or ' incomplete')
local template, place = '', 0
if ARGV[7] == state then
  template, place = ARGV[8], tonumber(ARGV[9])
end
local templates, seen_before = {}, {}
for _, field in ipairs(redis.call('HKEYS', P .. ':counts')) do
  local name = string.match(field, '^ready:([^:]+):')
  if name and not seen_before[name] then
    seen_before[name] = true
    templates[#templates + 1] = name
  end
end
table.sort(templates)
local looked = 0
for _, name in ipairs(templates) do
  if name >= template then
    local at = name == template and place or 0
    local queue = P .. ':ready:' .. name
    while true do
      local ids = redis.call('ZRANGE', queue, at, at + PIECE - 1)
      for _, id in ipairs(ids) do
        local r = load(id)
        if complete and redis.call('SISMEMBER', P .. ':asserted:' .. r.node, id) == 1 then
          at = at + 1
        else
          remove(r)
        end
      end
      looked = looked + #ids
      if #ids == 0 then
        break
      end
      if looked >= PIECE then
        return {'more', state, name, whole(at)}
      end
    end
  end
end

local events = tonumber(redis.call('GET', P .. ':events')) or 0
local cursor = tonumber(redis.call('HGET', R, 'cursor')) or 0
if events > 0 or cursor > 0 or redis.call('EXISTS', P .. ':due') == 1 then
  -- Whoever follows has a cursor that means nothing any more, and is to see that.
  redis.call('SET', P .. ':events', whole(math.max(events, cursor) + JUMP))
  redis.call('UNLINK', P .. ':routes')
end
local epoch = (tonumber(redis.call('HGET', R, 'epoch')) or 0) + 1
local tenure = whole(epoch) .. '.' .. ARGV[6] .. '.' .. redis.call('HGET', R, 'process')
for _, node in ipairs(redis.call('SMEMBERS', P .. ':expected')) do
  redis.call('UNLINK', P .. ':asserted:' .. node)
end
redis.call('UNLINK', R, P .. ':expected', P .. ':ended')
redis.call('SET', P .. ':settled', ARGV[3])
redis.call('SET', P .. ':tenure', tenure)
return {'open', tenure}
