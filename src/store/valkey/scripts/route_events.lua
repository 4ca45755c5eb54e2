-- Reads the route events after a cursor.
--
-- ARGV: now, capacity, cursor, most events.
-- Answers: 'ok', then number, id and record of each (an empty record for an instance that is gone); or 'gap'.
local last = tonumber(redis.call('GET', PREFIX .. ':events') or '0')
local after = tonumber(ARGV[3])
if after > last or after < last - tonumber(ARGV[2]) then
  return {'gap'}
end
local found = {'ok'}
for _, event in ipairs(redis.call('XRANGE', PREFIX .. ':routes', whole(after + 1) .. '-0', '+', 'COUNT', ARGV[4])) do
  found[#found + 1] = string.match(event[1], '^%d+')
  found[#found + 1] = event[2][2]
  found[#found + 1] = event[2][4]
end
-- The stream was trimmed by a node that keeps fewer events, or lost its end.
if after < last and (#found == 1 or tonumber(found[2]) ~= after + 1) then
  return {'gap'}
end
return found
