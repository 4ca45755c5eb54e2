-- Reads a page of the records that proxies must know, from the place that the page before named.
--
-- ARGV: now, capacity, place.
-- Answers: the next place ("0" at the end), the present, the number of route events, then id and record of each.
local page = redis.call('ZSCAN', PREFIX .. ':due', ARGV[3], 'COUNT', 256)
local found = {page[1], whole(now), redis.call('GET', PREFIX .. ':events') or '0'}
for n = 1, #page[2], 2 do
  found[#found + 1] = page[2][n]
  found[#found + 1] = redis.call('GET', PREFIX .. ':record:' .. page[2][n])
end
return found
