-- ARGV: now, capacity, call, ids.
for n = 4, #ARGV do
  if redis.call('ZREM', P .. ':unconfirmed', ARGV[n]) == 1 then
    redis.call('ZADD', P .. ':due', load(ARGV[n]).deadline, ARGV[n])
  end
end
return remember({'ok'})
