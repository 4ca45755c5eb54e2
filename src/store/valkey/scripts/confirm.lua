-- ARGV: now, capacity, call, ids.
for n = 4, #ARGV do
  if is_unconfirmed(ARGV[n]) then
    redis.call('ZADD', P .. ':due', load(ARGV[n]).deadline, ARGV[n])
  end
end
return remember({'ok'})
