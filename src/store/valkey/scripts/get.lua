-- Reads records by id. Answers the present, and the record of each id, empty where there is none.
--
-- ARGV: now, capacity, ids.
local found = {whole(now)}
for n = 3, #ARGV do
  found[#found + 1] = redis.call('GET', PREFIX .. ':record:' .. ARGV[n]) or ''
end
return found
