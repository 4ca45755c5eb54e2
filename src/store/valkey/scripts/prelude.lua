-- What all scripts share. KEYS[1] is the prefix of all keys; ARGV[1] is the present, or empty for the server's own time.
--
-- <prefix>:record:<id>                      a record, see `pack`
-- <prefix>:node:<node>                      set: the ids of a node's records
-- <prefix>:ready:<template>                 sorted set by turn: the ids that are ready
-- <prefix>:ready:<template>:<node>          the same of one node
-- <prefix>:turn                             the last turn given
-- <prefix>:front                            the last turn given before all others; these count downwards from 0
-- <prefix>:due                              sorted set by time: the assigned by their deadline, or the end of the wait to
--                                           be confirmed, the expired by the end of their retention. Half a millisecond
--                                           less says of an assigned one that its visitor is not known to have been told
-- <prefix>:counts                           hash: <state>:<template>:<node> to how many, if any
-- <prefix>:token:<template>:<token>         what a claim got: an id, or "over:<until when that is known>"
-- <prefix>:usage:<template>:<visitor>       hash: what a visitor had
-- <prefix>:calls:<span>                     hash: a call to what a step answered in that span of time, in case it is asked
--                                           again
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

local time = redis.call('TIME')
local real = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local now = tonumber(ARGV[1]) or real

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

local function count(field, by)
  if redis.call('HINCRBY', P .. ':counts', field, by) == 0 then
    redis.call('HDEL', P .. ':counts', field)
  end
end

-- As what it counts.
local function counted(r)
  return r and r.state ~= 'expired' and r.state .. ':' .. template_of(r.id) .. ':' .. r.node
end

local function is_timed(r)
  return r and (r.state == 'assigned' or r.state == 'expired')
end

local function wait_until_confirmed(id, deadline, since)
  redis.call('ZADD', P .. ':due', math.min(deadline, since + UNCONFIRMED_FOR) - 0.5, id)
end

local function is_unconfirmed(id)
  local due = tonumber(redis.call('ZSCORE', P .. ':due', id) or 0)
  return due ~= math.floor(due)
end

-- Moves what was `before`, if there was anything, to where it belongs as it is `after`, if it still is: in the queues, the
-- deadlines and the counts. A ready one that is at the front, and an assigned one that is unconfirmed, has a field that says
-- so.
local function move(before, after)
  if before and before.state == 'ready' then
    local template = template_of(before.id)
    redis.call('ZREM', P .. ':ready:' .. template, before.id)
    redis.call('ZREM', P .. ':ready:' .. template .. ':' .. before.node, before.id)
  elseif is_timed(before) and not is_timed(after) then
    redis.call('ZREM', P .. ':due', before.id)
  end
  if after and after.state == 'ready' then
    local template = template_of(after.id)
    local turn = after.front and redis.call('DECR', P .. ':front') or redis.call('INCR', P .. ':turn')
    redis.call('ZADD', P .. ':ready:' .. template, turn, after.id)
    redis.call('ZADD', P .. ':ready:' .. template .. ':' .. after.node, turn, after.id)
  elseif after and after.state == 'assigned' and after.unconfirmed then
    wait_until_confirmed(after.id, after.deadline, after.assigned)
  elseif is_timed(after) then
    -- Whatever else is done with an assigned one is done by somebody who knows of it.
    redis.call('ZADD', P .. ':due', after.state == 'assigned' and after.deadline or after.ended + RETENTION, after.id)
  end
  local was, is = counted(before), counted(after)
  if was ~= is then
    if was then
      count(was, -1)
    end
    if is then
      count(is, 1)
    end
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
  r.generation = before.generation + 1
  r.text = pack(r)
  redis.call('SET', P .. ':record:' .. r.id, r.text)
  move(before, r)
  -- Of one that was ready before nobody was told.
  if r.state == 'assigned' or r.state == 'expired' or before.state == 'assigned' then
    tell(r.id, r.text)
  end
end

-- Removes a record. Returns which event tells of it, where proxies knew it.
local function remove(r)
  move(r, nil)
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
-- is patient. A span's answers go together: were each a key with an end of its own, Valkey would stand still for tens of
-- milliseconds, again and again, to look for those whose end has come.
local SPAN = math.floor(real / PATIENCE)

local function calls(span)
  return P .. ':calls:' .. whole(span)
end

local function remember(answer)
  local calls = calls(SPAN)
  redis.call('HSET', calls, ARGV[3], cjson.encode(answer))
  if redis.call('HLEN', calls) == 1 then
    redis.call('PEXPIRE', calls, 3 * PATIENCE)
  end
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
