-- Records that a node is alive, and answers with all nodes.
--
-- ARGV: now, capacity, call, node, info, secret, the number of the last answer that the node has.
-- Answers: the term (empty if there is none), the number of this answer, whether the node was not on record, the
-- secret, then all nodes.
--
-- Not a step: heartbeats are recorded during a recovery too.
local latest = latest_heartbeat()
if not latest or now - latest > MAX_HEARTBEAT_GAP then
  redis.call('SET', PREFIX .. ':since', whole(now))
end
local number = whole(redis.call('INCR', PREFIX .. ':beat'))
local is_new = redis.call('HSET', PREFIX .. ':nodes', ARGV[4], ARGV[5])
if is_new == 1 then
  redis.call('HSET', PREFIX .. ':joined', ARGV[4], number)
  redis.call('SET', PREFIX .. ':newest', number)
end
redis.call('HSET', PREFIX .. ':informed', ARGV[4], ARGV[7])
redis.call('ZADD', PREFIX .. ':beats', whole(now), ARGV[4])
redis.call('SET', PREFIX .. ':secret', ARGV[6], 'NX')
local term = redis.call('GET', PREFIX .. ':tenure') or ''
return remember(append_nodes({term, number, whole(is_new), redis.call('GET', PREFIX .. ':secret')}))
