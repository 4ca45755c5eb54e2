-- Checks that no key was lost or damaged: by the sums over all keys, by the records of one node, and by what that node
-- knows of instances.
--
-- ARGV: now, capacity, term, node, greatest cursor that the node has seen, number of the last heartbeat's answer that it
-- has (0 before the first), number of the heartbeat with which it joined as far as it knows (0 if it does not), then an id
-- and the generation of each instance that it knows.
-- Answers: 'over' when that is not the term; 'damaged' and what is wrong; 'joined' and the number of the heartbeat with
-- which the node joined, if that is another one; or 'ok', the number of route events, and the ids that have no record.
-- Such an instance is lost if the node has read all these events and still knows it.
--
-- A node that was removed from the record knows instances that were removed with it. It is not judged by them, and when
-- it has come back it first forgets them.
if redis.call('GET', PREFIX .. ':tenure') ~= ARGV[3] then
  return {'over'}
end
local MAX_RECOUNTED = 256
local node = ARGV[4]
local events = tonumber(redis.call('GET', PREFIX .. ':events')) or 0
if events < tonumber(ARGV[5]) then
  return {'damaged', 'the count of route events is lost'}
end
local last_event = redis.call('XREVRANGE', PREFIX .. ':routes', '+', '-', 'COUNT', 1)[1]
if last_event and tonumber(string.match(last_event[1], '^%d+')) > events then
  return {'damaged', 'the count of route events is too low'}
end
local beat = tonumber(redis.call('GET', PREFIX .. ':beat')) or 0
if beat < tonumber(ARGV[6]) or beat < (tonumber(redis.call('GET', PREFIX .. ':newest')) or 0) then
  return {'damaged', 'the count of heartbeats is lost'}
end
local joined = redis.call('HGET', PREFIX .. ':joined', node)
local is_known = redis.call('HEXISTS', PREFIX .. ':nodes', node) == 1
if is_known and not (joined and redis.call('HGET', PREFIX .. ':informed', node)
    and redis.call('ZSCORE', PREFIX .. ':beats', node)) then
  return {'damaged', 'the record of this node is incomplete'}
end
if not is_known and ARGV[6] ~= '0' and joined ~= '9007199254740992' then
  return {'damaged', 'the record of this node is lost'}
end

-- The sums. An expired instance is in no count, and the node of one may be unknown.
local of_node, of_queue, sums = {}, {}, {warming = 0, ready = 0, assigned = 0}
for _, name in ipairs(redis.call('HKEYS', PREFIX .. ':nodes')) do
  of_node[name] = 0
end
local counts, count_of = redis.call('HGETALL', PREFIX .. ':counts'), {}
for n = 1, #counts, 2 do
  local state, template, name = string.match(counts[n], '^(%l+):([^:]+):(.+)$')
  local count = tonumber(counts[n + 1])
  if not (sums[state] and count and count > 0) then
    return {'damaged', 'a count is no number above zero'}
  end
  sums[state] = sums[state] + count
  of_node[name] = (of_node[name] or 0) + count
  count_of[counts[n]] = count
  if state == 'ready' then
    local queue = PREFIX .. ':ready:' .. template
    of_queue[queue] = (of_queue[queue] or 0) + count
    if redis.call('ZCARD', queue .. ':' .. name) ~= count then
      return {'damaged', 'a queue of a node and its count differ'}
    end
  end
end
for queue, count in pairs(of_queue) do
  if redis.call('ZCARD', queue) ~= count then
    return {'damaged', 'a queue and its counts differ'}
  end
end
local recorded = 0
for name, count in pairs(of_node) do
  local size = redis.call('SCARD', PREFIX .. ':node:' .. name)
  if size < count then
    return {'damaged', 'the list of a node is incomplete'}
  end
  recorded = recorded + size
end
local due = redis.call('ZCARD', PREFIX .. ':due')
if due < sums.assigned or recorded > sums.warming + sums.ready + due then
  return {'damaged', 'deadlines or counts are incomplete'}
end

-- What is wrong with a record or its places in the indexes; nil if nothing is.
local function flaw(record)
  if not is_valid(record) then
    return 'a record is unreadable'
  end
  local template = template_of(record.id)
  if redis.call('SISMEMBER', PREFIX .. ':node:' .. record.node, record.id) == 0 then
    return 'a record is missing in the list of its node'
  end
  if count_field(record) and not count_of[count_field(record)] then
    return 'a count is lost'
  end
  if record.state == 'ready' then
    local queue = PREFIX .. ':ready:' .. template
    if not (redis.call('ZSCORE', queue, record.id) and redis.call('ZSCORE', queue .. ':' .. record.node, record.id)) then
      return 'a ready instance is missing in its queue'
    end
  elseif is_in_due(record) then
    if not redis.call('ZSCORE', PREFIX .. ':due', record.id) then
      return 'a deadline is lost'
    end
    if record.state == 'assigned' and not is_over(record) then
      if not redis.call('GET', token_key(record)) then
        return 'a token is lost'
      end
      for _, network in ipairs(networks_of(record.visitor)) do
        if not redis.call('ZSCORE', assigned_key(template, network.name), record.id) then
          return 'an instance of a visitor is not counted'
        end
      end
    end
  end
end

local listed = redis.call('SCARD', PREFIX .. ':node:' .. node)
if listed <= MAX_RECOUNTED then
  local recount = {}
  for _, id in ipairs(redis.call('SMEMBERS', PREFIX .. ':node:' .. node)) do
    local record = load_record(id)
    local wrong = not record and 'a record is lost' or flaw(record)
    if wrong then
      return {'damaged', wrong}
    end
    local field = count_field(record)
    if field then
      recount[field] = (recount[field] or 0) + 1
    end
  end
  for field, count in pairs(recount) do
    if count_of[field] ~= count then
      return {'damaged', 'a count is wrong'}
    end
  end
end

if is_known and tonumber(joined) ~= tonumber(ARGV[7]) then
  return {'joined', joined}
end
local answer = {'ok', whole(events)}
for n = 8, is_known and #ARGV or 0, 2 do
  local record = load_record(ARGV[n])
  if not record then
    answer[#answer + 1] = ARGV[n]
  else
    local wrong = record.generation and record.generation < tonumber(ARGV[n + 1]) and record.state ~= 'expired'
      and 'a record is older than it was' or flaw(record)
    if wrong then
      return {'damaged', wrong}
    end
  end
end
return answer
