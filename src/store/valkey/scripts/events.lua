-- ARGV: now, capacity, cursor, most. The events after a cursor, each as its number, id and record; or 'gap'.
local last = tonumber(redis.call('GET', P .. ':events') or '0')
local after = tonumber(ARGV[3])
if after > last or after < last - tonumber(ARGV[2]) then
  return {'gap'}
end
local found = {'ok'}
for _, event in ipairs(redis.call('XRANGE', P .. ':routes', whole(after + 1) .. '-0', '+', 'COUNT', ARGV[4])) do
  found[#found + 1] = string.match(event[1], '^%d+')
  found[#found + 1] = event[2][2]
  found[#found + 1] = event[2][4]
end
-- The stream was trimmed by one that keeps less, or lost its end.
if after < last and (#found == 1 or tonumber(found[2]) ~= after + 1) then
  return {'gap'}
end
return found
