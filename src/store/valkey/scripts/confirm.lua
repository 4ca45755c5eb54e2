-- Confirms claims: the deadline of the lease is due again, as a whole number.
--
-- ARGV: now, capacity, call, ids.
for n = 4, #ARGV do
  if is_unconfirmed(ARGV[n]) then
    redis.call('ZADD', PREFIX .. ':due', load_record(ARGV[n]).deadline, ARGV[n])
  end
end
return remember({'ok'})
