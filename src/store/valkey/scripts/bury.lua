-- ARGV: now, capacity, call, node, silence, place. Does a page of a node's records, from a place that the page before
-- named: the next place ("0" at the end, or when the node was heard), then id and record of each that became expired.
local node = ARGV[4]
local silent = silence(node)
if not silent or silent < tonumber(ARGV[5]) then
  return {'0'}
end
local page = redis.call('SSCAN', P .. ':node:' .. node, ARGV[6], 'COUNT', 128)
local done = {page[1]}
for _, id in ipairs(page[2]) do
  local before = load(id)
  -- One whose time is over is left to the sweep, and one that came twice is gone the second time.
  if before and before.state == 'assigned' and not over(before) then
    local r = copy(before)
    r.state, r.ended, r.ending = 'expired', now, 'failed'
    replace(r, before)
    done[#done + 1], done[#done + 2] = r.id, r.text
  elseif before and (before.state == 'warming' or before.state == 'ready') then
    remove(before)
  end
end
if page[1] == '0' then
  redis.call('HDEL', P .. ':nodes', node)
  redis.call('HDEL', P .. ':informed', node)
  -- Until it beats again nobody counts on it.
  redis.call('HSET', P .. ':joined', node, '9007199254740992')
  redis.call('ZREM', P .. ':beats', node)
  redis.call('SREM', P .. ':draining', node)
end
return remember(done)
