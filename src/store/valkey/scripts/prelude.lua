-- What all scripts share. KEYS[1] is the prefix of all keys; ARGV[1] is the present, or empty for the server's own time.
--
-- <prefix>:record:<id>                      a record, see `pack`
-- <prefix>:node:<node>                      set: the ids of a node's records
-- <prefix>:ready:<template>                 sorted set by turn: the ids that are ready
-- <prefix>:ready:<template>:<node>          the same of one node
-- <prefix>:turn                             the last turn given
-- <prefix>:front                            the last turn given before all others; these count downwards from 0
-- <prefix>:due                              sorted set by time: the assigned by their deadline, or the end of the wait to
--                                           be confirmed, the expired by the end of their retention
-- <prefix>:unconfirmed                      sorted set by the time of their claims: the assigned whose visitors are not
--                                           known to have been told
-- <prefix>:counts                           hash: <state>:<template> and <state>:<template>:<node> to how many, if any
-- <prefix>:token:<template>:<token>         what a claim got: an id, or "over:<until when that is known>"
-- <prefix>:usage:<template>:<visitor>       hash: what a visitor had
-- <prefix>:call:<call>                      what a step answered, in case that is asked again
-- <prefix>:routes                           stream: what proxies must know, the n-th event under the id n-0
-- <prefix>:events                           how many events there were
-- <prefix>:nodes                            hash: a node's name to what it tells of itself
-- <prefix>:beats                            sorted set by time: when a node was last heard
-- <prefix>:since                            from when on there was always somebody heard
-- <prefix>:draining                         set: the nodes of which nothing is given out
-- <prefix>:secret                           what all nodes know, and nobody else
-- <prefix>:beat                             how many beats there were
-- <prefix>:joined                           hash: a node to the number of its first beat
-- <prefix>:newest                           the greatest of those
-- <prefix>:informed                         hash: a node to the number of the last answer with all members that it surely has
-- <prefix>:tenure                           "<epoch>.<random>.<process>": what was vouched for, and in which process; none
--                                           while that is not known. The following are those of a recovery, see recover_*
-- <prefix>:recovering                       hash: which process, round, epoch, cursor; how much was told, and when last
-- <prefix>:expected  <prefix>:reported      sets: the nodes that were there, and those that have told all
-- <prefix>:asserted:<node>                  set: what the node says is nobody's
-- <prefix>:ended                            hash: what is gone to its generation
-- <prefix>:settled                          the last round that came to its end

local P = KEYS[1]
local RETENTION = 600000
local PATIENCE = 10000
local PULSE = 2000
local UNCONFIRMED_FOR = 60000
-- Far more than anything could have been counted by one server and not by another.
local JUMP = 1048576

local now = tonumber(ARGV[1])

local function real_time()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

if not now then
  now = real_time()
end

local function whole(number)
  return string.format('%.0f', number)
end

local function template_of(id)
  return string.match(id, '^(.*)%-[^-]*$')
end

-- Fields that are only passed on stay text: a revision has more digits than a number here can hold.
local FIELDS = '^([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)$'

local function unpack_record(id, text)
  local generation, state, node, revision, created, endpoint, token, assigned, deadline, ended, ending =
    string.match(text, FIELDS)
  return {
    id = id, generation = tonumber(generation), state = state, node = node, revision = revision, created = created,
    endpoint = endpoint, token = token, assigned = tonumber(assigned), deadline = tonumber(deadline),
    ended = tonumber(ended), ending = ending, text = text,
  }
end

local function time_text(time)
  return time and whole(time) or ''
end

local function pack(r)
  return table.concat({
    whole(r.generation), r.state, r.node, r.revision, r.created, r.endpoint, r.token, time_text(r.assigned),
    time_text(r.deadline), time_text(r.ended), r.ending,
  }, '|')
end

local function load(id)
  local text = redis.call('GET', P .. ':record:' .. id)
  return text and unpack_record(id, text)
end

local function count(r, by)
  local field = r.state .. ':' .. template_of(r.id)
  for _, name in ipairs({field, field .. ':' .. r.node}) do
    if redis.call('HINCRBY', P .. ':counts', name, by) == 0 then
      redis.call('HDEL', P .. ':counts', name)
    end
  end
end

-- Puts a record into the queues, the deadlines and the counts. A ready one that is at the front, and an assigned one that
-- is unconfirmed, has a field that says so.
local function enlist(r)
  local template = template_of(r.id)
  if r.state == 'ready' then
    local turn = r.front and redis.call('DECR', P .. ':front') or redis.call('INCR', P .. ':turn')
    redis.call('ZADD', P .. ':ready:' .. template, turn, r.id)
    redis.call('ZADD', P .. ':ready:' .. template .. ':' .. r.node, turn, r.id)
  elseif r.state == 'assigned' and r.unconfirmed then
    redis.call('ZADD', P .. ':unconfirmed', r.assigned, r.id)
    redis.call('ZADD', P .. ':due', math.min(r.deadline, r.assigned + UNCONFIRMED_FOR), r.id)
  elseif r.state == 'assigned' then
    redis.call('ZADD', P .. ':due', r.deadline, r.id)
  elseif r.state == 'expired' then
    redis.call('ZADD', P .. ':due', r.ended + RETENTION, r.id)
  end
  if r.state ~= 'expired' then
    count(r, 1)
  end
end

-- Takes it out of them, before it changes.
local function unlist(r)
  local template = template_of(r.id)
  if r.state == 'ready' then
    redis.call('ZREM', P .. ':ready:' .. template, r.id)
    redis.call('ZREM', P .. ':ready:' .. template .. ':' .. r.node, r.id)
  elseif r.state ~= 'warming' then
    redis.call('ZREM', P .. ':due', r.id)
  end
  -- Whatever is done with it is done by somebody who knows of it, or ends it.
  if r.state == 'assigned' then
    redis.call('ZREM', P .. ':unconfirmed', r.id)
  end
  if r.state ~= 'expired' then
    count(r, -1)
  end
end

-- ARGV[2] is how many events are kept. Returns which event it is.
local function tell(id, text)
  local event = redis.call('INCR', P .. ':events')
  redis.call('XADD', P .. ':routes', 'MAXLEN', '~', ARGV[2], whole(event) .. '-0', 'id', id, 'record', text)
  return event
end

-- Stores a step: the state and what belongs to it are set already.
local function replace(r, before)
  unlist(before)
  r.generation = before.generation + 1
  r.text = pack(r)
  redis.call('SET', P .. ':record:' .. r.id, r.text)
  enlist(r)
  -- Of one that was ready before nobody was told.
  if r.state == 'assigned' or r.state == 'expired' or before.state == 'assigned' then
    tell(r.id, r.text)
  end
end

-- Removes a record. Returns which event tells of it, where proxies knew it.
local function remove(r)
  unlist(r)
  redis.call('DEL', P .. ':record:' .. r.id)
  redis.call('SREM', P .. ':node:' .. r.node, r.id)
  if r.state == 'assigned' or r.state == 'expired' then
    return tell(r.id, '')
  end
end

local function copy(r)
  return unpack_record(r.id, r.text)
end

-- Its lease has ended, whether that was swept or not.
local function over(r)
  return r.state == 'assigned' and r.deadline <= now
end

-- The state as readers see it.
local function seen(r)
  return over(r) and 'expired' or r.state
end

-- The ARGV[3] of what changes something names the call. Whoever lost the answer asks again by the same name, and gets that
-- answer (`once.lua`): nothing is done twice. Only what changed something is worth remembering, and only as long as a caller
-- is patient.
local function remember(answer)
  redis.call('SET', P .. ':call:' .. ARGV[3], cjson.encode(answer), 'PX', PATIENCE)
  return answer
end

local function token_key(r)
  return P .. ':token:' .. template_of(r.id) .. ':' .. r.token
end

-- When any node was last heard.
local function latest()
  return tonumber(redis.call('ZRANGE', P .. ':beats', -1, -1, 'WITHSCORES')[2])
end

-- For how long a node has not been heard while others were; nil when it never was.
local function silence(node)
  local beat = tonumber(redis.call('ZSCORE', P .. ':beats', node))
  if not beat then
    return nil
  end
  if now - latest() > PULSE then
    return 0
  end
  local since = tonumber(redis.call('GET', P .. ':since')) or 0
  return math.max(0, now - math.max(beat, since))
end

local function draining(node)
  return redis.call('SISMEMBER', P .. ':draining', node) == 1
end

-- Appends what each node told, for how long it has been silent, and whether it is draining.
local function members(found)
  local cards = redis.call('HGETALL', P .. ':nodes')
  for n = 1, #cards, 2 do
    found[#found + 1] = cards[n + 1]
    found[#found + 1] = whole(silence(cards[n]) or 0)
    found[#found + 1] = draining(cards[n]) and '1' or '0'
  end
  return found
end
