-- ARGV: now, capacity, ids. The present, and the record of each id, empty where there is none.
local found = {whole(now)}
for n = 3, #ARGV do
  found[#found + 1] = redis.call('GET', P .. ':record:' .. ARGV[n]) or ''
end
return found
