-- ARGV: now, capacity, place. A page of the records that proxies must know, from a place that the page before named:
-- the next place ("0" at the end), the present, how many events there were, then id and record of each.
local page = redis.call('ZSCAN', P .. ':due', ARGV[3], 'COUNT', 256)
local found = {page[1], whole(now), redis.call('GET', P .. ':events') or '0'}
for n = 1, #page[2], 2 do
  found[#found + 1] = page[2][n]
  found[#found + 1] = redis.call('GET', P .. ':record:' .. page[2][n])
end
return found
