-- Merges a page of what a node knows of the instances, in a round or late in a term.
--
-- ARGV: now, capacity, 'round' or 'late', the name of the round or term, node, then an id and a fact of each instance.
-- A fact is a record, with a sign in front if the node granted the claim ('+' confirmed, '?' unconfirmed), or
-- 'gone|<generation that its next record would have had>|<token that had it>'.
-- Answers: 'ok', or 'over' when the round or term is over.
--
-- The result does not depend on the order of the reports: of two records the expired one wins, else the one with the
-- higher generation, then the one with the later deadline; and the end of an instance wins against its records of
-- earlier generations. A late report cannot make an instance ready: the round ended without that node, so all ready
-- instances were removed.
local is_late = ARGV[3] == 'late'
local RECOVERING, ended, asserted = PREFIX .. ':recovering', PREFIX .. ':ended', PREFIX .. ':asserted:' .. ARGV[5]
local current = is_late and redis.call('GET', PREFIX .. ':tenure') or redis.call('HGET', RECOVERING, 'round')
if current ~= ARGV[4] then
  return {'over'}
end
local STATE_RANK = {warming = 0, ready = 1, assigned = 2, expired = 3}

-- `rank` in `recovery/local_view.rs` has the same order.
local function is_newer(a, b)
  if (a.state == 'expired') ~= (b.state == 'expired') then
    return a.state == 'expired'
  end
  if a.generation ~= b.generation then
    return a.generation > b.generation
  end
  if a.state ~= b.state then
    return STATE_RANK[a.state] > STATE_RANK[b.state]
  end
  return (a.deadline or 0) > (b.deadline or 0)
end

local function is_token_spent(key)
  local got = redis.call('GET', key)
  return got and string.match(got, '^over:') ~= nil
end

local function merge_end(id, generation, token)
  local known = load_record(id)
  if known and known.generation < generation then
    remove(known)
    known = nil
  end
  if token ~= '' and not known then
    local key = PREFIX .. ':token:' .. template_of(id) .. ':' .. token
    if not is_token_spent(key) then
      redis.call('SET', key, 'over:' .. whole(now + RETENTION), 'PX', 2 * RETENTION)
    end
  end
  if not is_late then
    local known_generation = tonumber(redis.call('HGET', ended, id)) or 0
    redis.call('HSET', ended, id, whole(math.max(known_generation, generation)))
  end
end

local function merge_record(record)
  local is_claimed = record.state == 'assigned' or record.state == 'expired'
  if is_claimed and redis.call('GET', PREFIX .. ':record:' .. record.id) == record.text then
    -- The usual case. If the end of the instance had been reported, the record would not exist.
    return
  end
  if is_late and not is_claimed then
    return
  end
  if (tonumber(redis.call('HGET', ended, record.id)) or 0) >= record.generation then
    return
  end
  if is_claimed and (is_token_spent(token_key(record)) or (record.ended or record.deadline) + RETENTION <= now) then
    return
  end
  local known = load_record(record.id)
  if not known or is_newer(record, known) then
    redis.call('SET', PREFIX .. ':record:' .. record.id, record.text)
    redis.call('SADD', PREFIX .. ':node:' .. record.node, record.id)
    reindex(known, record)
    if is_claimed then
      redis.call('SET', token_key(record), record.id)
      if is_late then
        publish(record.id, record.text)
      end
    end
  end
  if record.state == 'ready' then
    redis.call('SADD', asserted, record.id)
  end
end

-- The confirmation may be among what this Valkey lost.
local function confirm(id)
  if is_unconfirmed(id) then
    redis.call('ZADD', PREFIX .. ':due', load_record(id).deadline, id)
  end
end

for n = 6, #ARGV, 2 do
  local generation, token = string.match(ARGV[n + 1], '^gone|(%d+)|(.*)$')
  if generation then
    merge_end(ARGV[n], tonumber(generation), token)
  else
    local sign, text = string.match(ARGV[n + 1], '^([+?]?)(.*)$')
    local record = unpack_record(ARGV[n], text)
    record.unconfirmed = sign == '?'
    merge_record(record)
    if sign == '+' then
      confirm(ARGV[n])
    elseif sign == '?' and redis.call('HEXISTS', RECOVERING, 'due:' .. ARGV[n]) == 1 then
      local known = load_record(ARGV[n])
      if known and known.text == text and known.state == 'assigned' then
        mark_unconfirmed(known.id, known.deadline, known.assigned)
      end
    end
  end
end
if not is_late then
  redis.call('HINCRBY', RECOVERING, 'version', 1)
  redis.call('HSET', RECOVERING, 'heard', whole(real_now))
end
return {'ok'}
