-- ARGV: now, capacity, node, the number of the last answer that the node has. It is told of nodes that are new between two
-- beats: the tenure, the number that is answered now, the secret, then all members; 'unknown' if it is not on record.
if redis.call('HEXISTS', P .. ':nodes', ARGV[3]) == 0 then
  return {'unknown'}
end
redis.call('HSET', P .. ':informed', ARGV[3], ARGV[4])
return members({redis.call('GET', P .. ':tenure') or '', redis.call('GET', P .. ':beat') or '0',
  redis.call('GET', P .. ':secret') or ''})
