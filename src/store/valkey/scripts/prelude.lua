-- What all scripts share. KEYS[1] is the prefix of all keys; ARGV[1] is the present in milliseconds: "steady:<number>" is
-- the cluster's time as the calling node knows it. A number alone is that of a test, and it is empty for a node that does
-- not know the time yet.
--
-- The cluster's time goes on steadily. This server's own, `TIME`, is the wall clock of its host, which may be set: the
-- key `clock` holds the difference, which `heartbeat.lua` corrects.
--
-- The keys. Their names and formats are fixed: nodes of other versions of this program use them too.
--
-- <prefix>:record:<id>                a record, see `pack`
-- <prefix>:node:<node>                set: the ids of a node's records
-- <prefix>:ready:<template>           sorted set by queue position: the ids of ready instances
-- <prefix>:ready:<template>:<node>    the ready instances of one node, at the same positions
-- <prefix>:turn                       the position given last at the back of the queue
-- <prefix>:front                      the position given last at the front; these count down from 0
-- <prefix>:due                        sorted set by time. An assigned instance is at its deadline, or at the end of the
--                                     time in which its claim may be confirmed; an expired one is at the end of its
--                                     retention. Half a millisecond less than a whole number marks an assigned instance
--                                     as unconfirmed
-- <prefix>:counts                     hash: <state>:<template>:<node> to how many instances, if there are any
-- <prefix>:token:<template>:<token>   what a claim got: an id, or "over:<until when the spent token is known>"
-- <prefix>:usage:<template>:<network> hash: the charges of a network of visitors
-- <prefix>:assigned:<template>:<network>
--                                     sorted set by deadline: the assigned instances of a network of visitors. Those
--                                     whose deadline has passed no longer count, swept or not
-- <prefix>:calls:<span>               hash: the name of a call to what it answered in that span of time, in case the
--                                     call is repeated
-- <prefix>:routes                     stream: the route events, the n-th with the id n-0
-- <prefix>:events                     how many route events there were
-- <prefix>:nodes                      hash: a node's name to its `NodeInfo`
-- <prefix>:beats                      sorted set by time: each node's last heartbeat
-- <prefix>:since                      start of the present period without a gap longer than MAX_HEARTBEAT_GAP between
--                                     two heartbeats
-- <prefix>:draining                   set: the nodes of which no instance is assigned
-- <prefix>:evicted                    sorted set by time: the nodes that were evicted and have sent no heartbeat since
-- <prefix>:clock                      the difference of the cluster's time from `TIME`, in milliseconds
-- <prefix>:secret                     the secret that all nodes share
-- <prefix>:beat                       how many heartbeats there were, which is the number of the last one
-- <prefix>:joined                     hash: a node to the number of its first heartbeat
-- <prefix>:newest                     the greatest of those numbers
-- <prefix>:informed                   hash: a node to the number of the last answer with all nodes that it surely has
-- <prefix>:tenure                     the term, "<epoch>.<random>.<process>": names the verified state and the Valkey
--                                     process that has it. Absent while the state is not verified
--
-- The keys of a recovery, see recover_*.lua:
--
-- <prefix>:recovering                 hash: process, round, epoch, cursor; `version` counts the reports, `heard` is the
--                                     time of the last one; `phase` and `place` say how far the rebuild is, and a field
--                                     `due:<id>` marks an assigned instance whose place in `due` was lost
-- <prefix>:expected                   set: the nodes that were there
-- <prefix>:reported                   set: the nodes that have reported all they know
-- <prefix>:asserted:<node>            set: the instances that the node reports as ready
-- <prefix>:ended                      hash: the id of an instance that is gone to its generation
-- <prefix>:settled                    the last round that was finished

local PREFIX = KEYS[1]
local RETENTION = 600000
local CALL_SPAN = 10000
local MAX_HEARTBEAT_GAP = 2000
local CONFIRM_TIMEOUT = 60000
-- Far more than one node can have counted without another node learning of it.
local COUNTER_JUMP = 1048576

-- Valkey ends keys by its own wall clock, which may be set forward meanwhile: keys that limits need last this much longer.
local CLOCK_STEP = 86400000

local function store_time()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Returns nothing where the key is lost or damaged: the next heartbeat sets it again.
local function clock_difference()
  local stored = redis.pcall('GET', PREFIX .. ':clock')
  return type(stored) == 'string' and tonumber(stored) or nil
end

-- `real_now` is never the time of a test.
local real_now = tonumber(string.match(ARGV[1], '^steady:(%d+)$')) or store_time() + (clock_difference() or 0)
local now = tonumber(ARGV[1]) or real_now

local function whole(number)
  return string.format('%.0f', number)
end

local function template_of(id)
  return string.match(id, '^(.*)%-[^-]*$')
end

local HOUR, DAY = 3600000, 86400000

-- The networks of a visitor, each with its name and how many times each limit it may use. `instance/visitor.rs` has the
-- format.
local function networks_of(visitor)
  local networks = {}
  for entry in string.gmatch(visitor, '[^,]+') do
    local factor, name = string.match(entry, '^(%d+)%*(.*)$')
    networks[#networks + 1] = {name = name or entry, factor = tonumber(factor) or 1}
  end
  return networks
end

-- Fields that a script only copies stay text: a revision has more digits than a number here can hold.
local FIELDS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'

local function unpack_record(id, text)
  local generation, state, node, revision, created, endpoint, token, assigned, deadline, ended, ending =
    string.match(text, FIELDS)
  local visitor = ''
  if state == 'assigned' then
    visitor, ending = ending, ''
  end
  return {
    id = id, generation = tonumber(generation), state = state, node = node, revision = revision, created = created,
    endpoint = endpoint, token = token, assigned = tonumber(assigned), deadline = tonumber(deadline),
    ended = tonumber(ended), ending = ending, visitor = visitor, text = text,
  }
end

local function time_text(time)
  return time and whole(time) or ''
end

-- The text of a record. `record_codec.rs` reads and writes the same fields in the same order. A record that expired
-- before its deadline has the ending 'failed', and instead of its endpoint the kind of its end, which older versions
-- ignore: 'unconfirmed', 'node_lost', or anything else where the app died. An assigned record has no ending, and
-- instead of it the visitor whom limits count, which older versions ignore too, and keep.
local function pack(record)
  return table.concat({
    whole(record.generation), record.state, record.node, record.revision, record.created, record.endpoint, record.token,
    time_text(record.assigned), time_text(record.deadline), time_text(record.ended),
    record.state == 'assigned' and record.visitor or record.ending,
  }, '|')
end

local function load_record(id)
  local text = redis.call('GET', PREFIX .. ':record:' .. id)
  return text and unpack_record(id, text)
end

-- Whether a record has all fields that its state needs.
local function is_valid(record)
  if not (record.generation and record.node and record.revision) or template_of(record.id) == nil then
    return false
  end
  if record.state == 'assigned' or record.state == 'expired' then
    return record.token ~= '' and record.assigned ~= nil and record.deadline ~= nil
      and (record.state == 'assigned' or (record.ended ~= nil and record.ending ~= ''))
  end
  return record.state == 'warming' or (record.state == 'ready' and record.endpoint ~= '')
end

local function copy_record(record)
  return unpack_record(record.id, record.text)
end

local function add_to_count(field, by)
  if redis.call('HINCRBY', PREFIX .. ':counts', field, by) == 0 then
    redis.call('HDEL', PREFIX .. ':counts', field)
  end
end

-- The field of the hash `counts` in which a record is counted, if it is counted.
local function count_field(record)
  return record and record.state ~= 'expired' and record.state .. ':' .. template_of(record.id) .. ':' .. record.node
end

local function is_in_due(record)
  return record and (record.state == 'assigned' or record.state == 'expired')
end

local function mark_unconfirmed(id, deadline, since)
  redis.call('ZADD', PREFIX .. ':due', math.min(deadline, since + CONFIRM_TIMEOUT) - 0.5, id)
end

local function is_unconfirmed(id)
  local due = tonumber(redis.call('ZSCORE', PREFIX .. ':due', id) or 0)
  return due ~= math.floor(due)
end

local function assigned_key(template, network)
  return PREFIX .. ':assigned:' .. template .. ':' .. network
end

-- The visitor whom limits count for an instance; empty if there is none.
local function visitor_of(record)
  return record and record.state == 'assigned' and record.visitor or ''
end

-- Moves a record among the assigned instances of its visitor. The keys end by themselves only where a node of an older
-- version ended the instances.
local function reindex_visitor(before, after)
  local was, is = visitor_of(before), visitor_of(after)
  if was ~= is then
    for _, network in ipairs(networks_of(was)) do
      redis.call('ZREM', assigned_key(template_of(before.id), network.name), before.id)
    end
  end
  for _, network in ipairs(networks_of(is)) do
    local key, longest = assigned_key(template_of(after.id), network.name), whole(after.deadline - now + RETENTION + CLOCK_STEP)
    redis.call('ZADD', key, after.deadline, after.id)
    -- A key without an end counts as one that never ends, so the first end is set apart.
    if redis.call('PEXPIRE', key, longest, 'NX') == 0 then
      redis.call('PEXPIRE', key, longest, 'GT')
    end
  end
end

-- Moves a record in the queues, the deadlines, the visitor's instances and the counts from where it belongs as it was
-- `before` (nil for a new one) to where it belongs as it is `after` (nil for one that is removed). The field `front` of
-- a ready record puts it at the front of the queue, the field `unconfirmed` of an assigned one marks it as unconfirmed.
local function reindex(before, after)
  if before and before.state == 'ready' then
    local template = template_of(before.id)
    redis.call('ZREM', PREFIX .. ':ready:' .. template, before.id)
    redis.call('ZREM', PREFIX .. ':ready:' .. template .. ':' .. before.node, before.id)
  elseif is_in_due(before) and not is_in_due(after) then
    redis.call('ZREM', PREFIX .. ':due', before.id)
  end
  if after and after.state == 'ready' then
    local template = template_of(after.id)
    local position = after.front and redis.call('DECR', PREFIX .. ':front') or redis.call('INCR', PREFIX .. ':turn')
    redis.call('ZADD', PREFIX .. ':ready:' .. template, position, after.id)
    redis.call('ZADD', PREFIX .. ':ready:' .. template .. ':' .. after.node, position, after.id)
  elseif after and after.state == 'assigned' and after.unconfirmed then
    mark_unconfirmed(after.id, after.deadline, after.assigned)
  elseif is_in_due(after) then
    -- Any later step on an assigned instance confirms its claim: only a client that got the answer can ask for it.
    local due = after.state == 'assigned' and after.deadline or after.ended + RETENTION
    redis.call('ZADD', PREFIX .. ':due', due, after.id)
  end
  reindex_visitor(before, after)
  local was, is = count_field(before), count_field(after)
  if was ~= is then
    if was then
      add_to_count(was, -1)
    end
    if is then
      add_to_count(is, 1)
    end
  end
end

-- Appends a route event and returns its number. ARGV[2] is how many events are kept.
local function publish(id, text)
  local event = redis.call('INCR', PREFIX .. ':events')
  redis.call('XADD', PREFIX .. ':routes', 'MAXLEN', '~', ARGV[2], whole(event) .. '-0', 'id', id, 'record', text)
  return event
end

-- Stores a record after a step: its state and what belongs to the state are set already.
local function replace(record, before)
  record.generation = before.generation + 1
  record.text = pack(record)
  -- The record comes last: if an index is damaged and the step fails there, the instance is as it was before.
  reindex(before, record)
  redis.call('SET', PREFIX .. ':record:' .. record.id, record.text)
  -- Proxies do not know a warming or ready instance. One that is ready after an undone claim they knew as assigned.
  if record.state == 'assigned' or record.state == 'expired' or before.state == 'assigned' then
    publish(record.id, record.text)
  end
end

-- Removes a record. Returns the number of the route event, if proxies knew the instance.
local function remove(record)
  reindex(record, nil)
  redis.call('DEL', PREFIX .. ':record:' .. record.id)
  redis.call('SREM', PREFIX .. ':node:' .. record.node, record.id)
  if record.state == 'assigned' or record.state == 'expired' then
    return publish(record.id, '')
  end
end

-- Whether the deadline of an assigned instance has passed, swept or not.
local function is_over(record)
  return record.state == 'assigned' and record.deadline <= now
end

-- The state as readers see it.
local function visible_state(record)
  return is_over(record) and 'expired' or record.state
end

-- The ARGV[3] of a script that changes something is the name of the call. A caller that lost the answer repeats the
-- call with the same name and gets the same answer (`repeated_call.lua`): nothing is done twice. Only the answer of a
-- call that changed something is remembered, and only for as long as a caller waits. The answers of one span of time
-- share a key: with a key and an expiry for each answer, Valkey would pause for tens of milliseconds, again and again,
-- to search for expired ones.
local SPAN = math.floor(real_now / CALL_SPAN)

local function calls_key(span)
  return PREFIX .. ':calls:' .. whole(span)
end

local function remember(answer)
  local key = calls_key(SPAN)
  redis.call('HSET', key, ARGV[3], cjson.encode(answer))
  if redis.call('HLEN', key) == 1 then
    redis.call('PEXPIRE', key, 3 * CALL_SPAN)
  end
  return answer
end

local function token_key(record)
  return PREFIX .. ':token:' .. template_of(record.id) .. ':' .. record.token
end

-- The charges of each network of a visitor for a template: two windows, each with its start and the number of charges
-- in it. A window that has ended counts as not open.
local function usages_of(template, visitor)
  local usages = networks_of(visitor)
  for _, usage in ipairs(usages) do
    usage.key = PREFIX .. ':usage:' .. template .. ':' .. usage.name
    local u = redis.call('HMGET', usage.key, 'hour', 'hour_used', 'day', 'day_used')
    usage.hour, usage.hour_used, usage.day, usage.day_used =
      tonumber(u[1]), tonumber(u[2]), tonumber(u[3]), tonumber(u[4])
    if not usage.hour or now >= usage.hour + HOUR then
      usage.hour, usage.hour_used = nil, 0
    end
    if not usage.day or now >= usage.day + DAY then
      usage.day, usage.day_used = nil, 0
    end
  end
  return usages
end

-- Whether a network has used up a limit.
local function is_used_up(usages, hourly, daily)
  for _, usage in ipairs(usages) do
    local has_room_in_hour = hourly == 0 or usage.hour_used < hourly * usage.factor
    local has_room_in_day = daily == 0 or usage.day_used < daily * usage.factor
    if not (has_room_in_hour and has_room_in_day) then
      return true
    end
  end
  return false
end

-- Charges each network once.
local function charge(usages)
  for _, usage in ipairs(usages) do
    usage.hour, usage.hour_used = usage.hour or now, usage.hour_used + 1
    usage.day, usage.day_used = usage.day or now, usage.day_used + 1
    redis.call('HSET', usage.key, 'hour', whole(usage.hour), 'hour_used', whole(usage.hour_used),
      'day', whole(usage.day), 'day_used', whole(usage.day_used))
    redis.call('PEXPIRE', usage.key, DAY + CLOCK_STEP)
  end
end

-- Appends how many networks there are, then of each its factor and its two windows (each its start, empty if it is not
-- open, and its count).
local function append_usages(found, usages)
  found[#found + 1] = whole(#usages)
  for _, usage in ipairs(usages) do
    for _, word in ipairs({whole(usage.factor), time_text(usage.hour), whole(usage.hour_used), time_text(usage.day),
      whole(usage.day_used)}) do
      found[#found + 1] = word
    end
  end
  return found
end

-- The time of the last heartbeat of any node.
local function latest_heartbeat()
  return tonumber(redis.call('ZRANGE', PREFIX .. ':beats', -1, -1, 'WITHSCORES')[2])
end

-- For how long a node has been silent while other nodes were heard; nil when it never sent a heartbeat.
local function silence(node)
  local last = tonumber(redis.call('ZSCORE', PREFIX .. ':beats', node))
  if not last then
    return nil
  end
  if now - latest_heartbeat() > MAX_HEARTBEAT_GAP then
    return 0
  end
  local since = tonumber(redis.call('GET', PREFIX .. ':since')) or 0
  return math.max(0, now - math.max(last, since))
end

local function is_draining(node)
  return redis.call('SISMEMBER', PREFIX .. ':draining', node) == 1
end

-- Appends each node's info, for how long it has been silent, and whether it drains.
local function append_nodes(found)
  local infos = redis.call('HGETALL', PREFIX .. ':nodes')
  for n = 1, #infos, 2 do
    found[#found + 1] = infos[n + 1]
    found[#found + 1] = whole(silence(infos[n]) or 0)
    found[#found + 1] = is_draining(infos[n]) and '1' or '0'
  end
  return found
end
