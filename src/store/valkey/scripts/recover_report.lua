-- ARGV: now, capacity, 'round' or 'late', which round or tenure, node, then id and record of each, with a sign in front if
-- the node handed it out ('+' its visitor was told, '?' nobody knows), or id and 'gone|<what would have been its next generation>|<the token that had it>'.
--
-- Whatever order these come in, the result is the same: of two records the expired one holds, else that of the higher
-- generation, then that with more time, and none holds against its end. What is late cannot make anything ready: without
-- it, all that was ready was removed.
local late = ARGV[3] == 'late'
local R, ended, asserted = P .. ':recovering', P .. ':ended', P .. ':asserted:' .. ARGV[5]
local current = late and redis.call('GET', P .. ':tenure') or redis.call('HGET', R, 'round')
if current ~= ARGV[4] then
  return {'closed'}
end
local RANK = {warming = 0, ready = 1, assigned = 2, expired = 3}

local function further(a, b)
  if (a.state == 'expired') ~= (b.state == 'expired') then
    return a.state == 'expired'
  end
  if a.generation ~= b.generation then
    return a.generation > b.generation
  end
  if a.state ~= b.state then
    return RANK[a.state] > RANK[b.state]
  end
  return (a.deadline or 0) > (b.deadline or 0)
end

local function is_over(key)
  local got = redis.call('GET', key)
  return got and string.match(got, '^over:') ~= nil
end

local function end_it(id, generation, token)
  local mine = load(id)
  if mine and mine.generation < generation then
    remove(mine)
    mine = nil
  end
  if token ~= '' and not mine then
    local key = P .. ':token:' .. template_of(id) .. ':' .. token
    if not is_over(key) then
      redis.call('SET', key, 'over:' .. whole(now + RETENTION), 'PX', 2 * RETENTION)
    end
  end
  if not late then
    local known = tonumber(redis.call('HGET', ended, id)) or 0
    redis.call('HSET', ended, id, whole(math.max(known, generation)))
  end
end

local function put(r)
  local held = r.state == 'assigned' or r.state == 'expired'
  if held and redis.call('GET', P .. ':record:' .. r.id) == r.text then
    -- As nearly always. Had it been told to have ended, it would not be there.
    return
  end
  if late and not held then
    return
  end
  if (tonumber(redis.call('HGET', ended, r.id)) or 0) >= r.generation then
    return
  end
  if held and (is_over(token_key(r)) or (r.ended or r.deadline) + RETENTION <= now) then
    return
  end
  local mine = load(r.id)
  if not mine or further(r, mine) then
    redis.call('SET', P .. ':record:' .. r.id, r.text)
    redis.call('SADD', P .. ':node:' .. r.node, r.id)
    move(mine, r)
    if held then
      redis.call('SET', token_key(r), r.id)
      if late then
        tell(r.id, r.text)
      end
    end
  end
  if r.state == 'ready' then
    redis.call('SADD', asserted, r.id)
  end
end

-- Its visitor was told, which this store may have lost.
local function confirm(id)
  if is_unconfirmed(id) then
    redis.call('ZADD', P .. ':due', load(id).deadline, id)
  end
end

for n = 6, #ARGV, 2 do
  local generation, token = string.match(ARGV[n + 1], '^gone|(%d+)|(.*)$')
  if generation then
    end_it(ARGV[n], tonumber(generation), token)
  else
    local sign, text = string.match(ARGV[n + 1], '^([+?]?)(.*)$')
    local r = unpack_record(ARGV[n], text)
    r.unconfirmed = sign == '?'
    put(r)
    if sign == '+' then
      confirm(ARGV[n])
    end
  end
end
if not late then
  redis.call('HINCRBY', R, 'version', 1)
  redis.call('HSET', R, 'heard', whole(real))
end
return {'ok'}
