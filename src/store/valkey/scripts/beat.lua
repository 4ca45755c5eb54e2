-- ARGV: now, capacity, call, node, card, secret. Whether the node was not on record, the secret, then all members.
local known = answered()
if known then
  return known
end
local before = latest()
if not before or now - before > PULSE then
  redis.call('SET', P .. ':since', whole(now))
end
local new = redis.call('HSET', P .. ':nodes', ARGV[4], ARGV[5])
redis.call('ZADD', P .. ':beats', whole(now), ARGV[4])
redis.call('SET', P .. ':secret', ARGV[6], 'NX')
return remember(members({whole(new), redis.call('GET', P .. ':secret')}))
