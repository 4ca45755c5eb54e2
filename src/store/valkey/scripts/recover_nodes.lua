-- Begins a node's report to a round: which nodes there were, and which numbers it saw. What the node asserted before,
-- perhaps in an earlier process, no longer counts.
--
-- ARGV: now, capacity, round, node, cursor, number of the last heartbeat, secret, then name and info of each node.
-- Answers: 'ok', or 'over' when the round is over.
local RECOVERING = PREFIX .. ':recovering'
if redis.call('HGET', RECOVERING, 'round') ~= ARGV[3] then
  return {'over'}
end
local node = ARGV[4]
redis.call('UNLINK', PREFIX .. ':asserted:' .. node)
redis.call('SREM', PREFIX .. ':reported', node)
redis.call('SADD', PREFIX .. ':expected', node)
local cursor = math.max(tonumber(redis.call('HGET', RECOVERING, 'cursor')) or 0, tonumber(ARGV[5]))
redis.call('HSET', RECOVERING, 'cursor', whole(cursor))
-- So that no number that was issued and lost is issued again.
local heartbeat = math.max(tonumber(redis.call('GET', PREFIX .. ':beat')) or 0, tonumber(ARGV[6]),
  tonumber(redis.call('GET', PREFIX .. ':newest')) or 0)
if heartbeat > 0 then
  redis.call('SET', PREFIX .. ':beat', whole(heartbeat + COUNTER_JUMP))
end
if ARGV[7] ~= '' then
  redis.call('SET', PREFIX .. ':secret', ARGV[7])
end
for n = 8, #ARGV, 2 do
  redis.call('SADD', PREFIX .. ':expected', ARGV[n])
  local is_new = redis.call('HSETNX', PREFIX .. ':nodes', ARGV[n], ARGV[n + 1]) == 1
  if is_new or redis.call('HEXISTS', PREFIX .. ':joined', ARGV[n]) == 0 then
    redis.call('ZADD', PREFIX .. ':beats', whole(now), ARGV[n])
    local number = whole(redis.call('INCR', PREFIX .. ':beat'))
    redis.call('HSET', PREFIX .. ':joined', ARGV[n], number)
    redis.call('SET', PREFIX .. ':newest', number)
    redis.call('HSET', PREFIX .. ':informed', ARGV[n], '0')
  end
end
redis.call('HINCRBY', RECOVERING, 'version', 1)
redis.call('HSET', RECOVERING, 'heard', whole(real_now))
return {'ok'}
