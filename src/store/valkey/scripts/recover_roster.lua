-- ARGV: now, capacity, round, node, cursor, beat, secret, then id and card of each node. A node begins to tell what it
-- knows: who was there, and how far it saw. What it asserted before, perhaps in a life before this, no longer counts.
local R = P .. ':recovering'
if redis.call('HGET', R, 'round') ~= ARGV[3] then
  return {'closed'}
end
local node = ARGV[4]
redis.call('UNLINK', P .. ':asserted:' .. node)
redis.call('SREM', P .. ':reported', node)
redis.call('SADD', P .. ':expected', node)
local function most(name, number)
  return whole(math.max(tonumber(redis.call('HGET', R, name)) or 0, tonumber(number)))
end
redis.call('HSET', R, 'cursor', most('cursor', ARGV[5]))
-- So that no number that was given out and lost is given out again.
local beat = math.max(tonumber(redis.call('GET', P .. ':beat')) or 0, tonumber(ARGV[6]))
if beat > 0 then
  redis.call('SET', P .. ':beat', whole(beat + JUMP))
end
if ARGV[7] ~= '' then
  redis.call('SET', P .. ':secret', ARGV[7])
end
for n = 8, #ARGV, 2 do
  redis.call('SADD', P .. ':expected', ARGV[n])
  if redis.call('HSETNX', P .. ':nodes', ARGV[n], ARGV[n + 1]) == 1 then
    redis.call('ZADD', P .. ':beats', whole(now), ARGV[n])
    local number = whole(redis.call('INCR', P .. ':beat'))
    redis.call('HSET', P .. ':joined', ARGV[n], number)
    redis.call('SET', P .. ':newest', number)
    redis.call('HSET', P .. ':informed', ARGV[n], '0')
  end
end
redis.call('HINCRBY', R, 'version', 1)
redis.call('HSET', R, 'heard', whole(real))
return {'ok'}
