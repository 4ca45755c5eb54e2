-- Records which answer with all nodes a node has, and answers with all nodes again. A node calls it between two
-- heartbeats when another node is new, so that the new one soon gets its instances.
--
-- ARGV: now, capacity, node, the number of the last answer that the node has.
-- Answers: the term (empty if there is none), the number of this answer, the secret, then all nodes. 'unknown' if the
-- node is not on record.
--
-- Not a step: it changes no instance.
if redis.call('HEXISTS', PREFIX .. ':nodes', ARGV[3]) == 0 then
  return {'unknown'}
end
redis.call('HSET', PREFIX .. ':informed', ARGV[3], ARGV[4])
return append_nodes({redis.call('GET', PREFIX .. ':tenure') or '', redis.call('GET', PREFIX .. ':beat') or '0',
  redis.call('GET', PREFIX .. ':secret') or ''})
