-- Reads a page of a node's records, from the place that the page before named.
--
-- ARGV: now, capacity, node, place.
-- Answers: the next place ("0" at the end), the present, then id and record of each.
local page = redis.call('SSCAN', PREFIX .. ':node:' .. ARGV[3], ARGV[4], 'COUNT', 256)
local found = {page[1], whole(now)}
for _, id in ipairs(page[2]) do
  found[#found + 1] = id
  found[#found + 1] = redis.call('GET', PREFIX .. ':record:' .. id)
end
return found
