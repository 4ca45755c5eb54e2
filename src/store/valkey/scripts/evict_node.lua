-- Ends a page of a silent node's instances, from the place that the page before named. The last page removes the node
-- from the record.
--
-- ARGV: now, capacity, call, node, silence, place.
-- Answers: the next place ("0" at the end, or when the node is not silent for long enough), then id and record of each
-- instance that became expired.
local node = ARGV[4]
local silent_for = silence(node)
if not silent_for or silent_for < tonumber(ARGV[5]) then
  return {'0'}
end
local page = redis.call('SSCAN', PREFIX .. ':node:' .. node, ARGV[6], 'COUNT', 128)
local answer = {page[1]}
for _, id in ipairs(page[2]) do
  local before = load_record(id)
  -- An instance whose deadline has passed is left to the sweep. An id that the scan returns twice has no record, or an
  -- expired one, the second time.
  if before and before.state == 'assigned' and not is_over(before) then
    local record = copy_record(before)
    record.state, record.ended, record.ending, record.endpoint = 'expired', now, 'failed', 'node_lost'
    replace(record, before)
    answer[#answer + 1], answer[#answer + 2] = record.id, record.text
  elseif before and (before.state == 'warming' or before.state == 'ready') then
    remove(before)
  end
end
if page[1] == '0' then
  redis.call('HDEL', PREFIX .. ':nodes', node)
  redis.call('HDEL', PREFIX .. ':informed', node)
  -- No number of a heartbeat reaches this one, 2^53: until the node's next heartbeat no owner counts as knowing it.
  redis.call('HSET', PREFIX .. ':joined', node, '9007199254740992')
  redis.call('ZREM', PREFIX .. ':beats', node)
  redis.call('SREM', PREFIX .. ':draining', node)
  redis.call('ZREMRANGEBYSCORE', PREFIX .. ':evicted', '-inf', whole(now - 30 * DAY))
  redis.call('ZADD', PREFIX .. ':evicted', whole(now), node)
end
return remember(answer)
