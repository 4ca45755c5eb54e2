-- ARGV: now, capacity, call, node, card, secret, the number of the last answer that the node has. The tenure if there is one,
-- the number of this answer, whether the node was not on record, the secret, then all members.
--
-- Not a step: a node is heard while the store is being recovered, too.
local before = latest()
if not before or now - before > PULSE then
  redis.call('SET', P .. ':since', whole(now))
end
local number = whole(redis.call('INCR', P .. ':beat'))
local new = redis.call('HSET', P .. ':nodes', ARGV[4], ARGV[5])
if new == 1 then
  redis.call('HSET', P .. ':joined', ARGV[4], number)
  redis.call('SET', P .. ':newest', number)
end
redis.call('HSET', P .. ':informed', ARGV[4], ARGV[7])
redis.call('ZADD', P .. ':beats', whole(now), ARGV[4])
redis.call('SET', P .. ':secret', ARGV[6], 'NX')
local tenure = redis.call('GET', P .. ':tenure') or ''
return remember(members({tenure, number, whole(new), redis.call('GET', P .. ':secret')}))
