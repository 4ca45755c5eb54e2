-- ARGV: now, capacity, call, node, '1' for on.
if redis.call('HEXISTS', P .. ':nodes', ARGV[4]) == 0 then
  return {'unknown'}
end
redis.call(ARGV[5] == '1' and 'SADD' or 'SREM', P .. ':draining', ARGV[4])
return remember({'ok'})
