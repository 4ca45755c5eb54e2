-- The start of each script that changes something, except a claim: a repeated call gets the remembered answer, and does
-- nothing. The script ends with `remember`.
for ago = 0, 1 do
  local answer = redis.call('HGET', calls_key(SPAN - ago), ARGV[3])
  if answer then
    return cjson.decode(answer)
  end
end
