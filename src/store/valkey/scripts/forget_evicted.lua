-- Takes a node off the list of evicted ones.
--
-- ARGV: now, capacity, call, node.
redis.call('ZREM', PREFIX .. ':evicted', ARGV[4])
return remember({'ok'})
