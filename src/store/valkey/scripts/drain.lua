-- Marks a node as draining, or removes the mark.
--
-- ARGV: now, capacity, call, node, '1' to mark.
if redis.call('HEXISTS', PREFIX .. ':nodes', ARGV[4]) == 0 then
  return {'unknown'}
end
redis.call(ARGV[5] == '1' and 'SADD' or 'SREM', PREFIX .. ':draining', ARGV[4])
return remember({'ok'})
