-- Records that a node is alive, and answers with all nodes.
--
-- ARGV: now, capacity, call, node, info, secret, the number of the last answer that the node has.
-- Answers: the term (empty if there is none), the number of this answer, whether the node was not on record, the
-- secret, the cluster's time, then all nodes.
--
-- Not a step: heartbeats are recorded during a recovery too.
local latest = latest_heartbeat()

-- Where the time of the node and that of this server differ, one of them was set or stood still. If a heartbeat of a
-- moment ago agrees with this server, it is the node, which learns the right time from the answer. Otherwise this server's
-- host had its clock set.
local MAX_CLOCK_DIFFERENCE = 2000
local CONFIRMED_WITHIN = 5000
local difference, of_server = clock_difference(), store_time()
if string.match(ARGV[1], '^steady:') then
  local by_server = of_server + (difference or 0)
  local is_off = math.abs(now - by_server) > MAX_CLOCK_DIFFERENCE
  local is_confirmed = latest and math.abs(by_server - latest) < CONFIRMED_WITHIN
  if is_off and not (difference and is_confirmed) then
    difference = now - of_server
    redis.call('SET', PREFIX .. ':clock', whole(difference))
  elseif is_off then
    now = by_server
  end
end
if not difference then
  difference = 0
  redis.call('SET', PREFIX .. ':clock', '0')
end
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
redis.call('ZREM', PREFIX .. ':evicted', ARGV[4])
redis.call('SET', PREFIX .. ':secret', ARGV[6], 'NX')
local term = redis.call('GET', PREFIX .. ':tenure') or ''
return remember(append_nodes({term, number, whole(is_new), redis.call('GET', PREFIX .. ':secret'),
  whole(of_server + difference)}))
