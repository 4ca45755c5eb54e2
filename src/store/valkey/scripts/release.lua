-- ARGV: now, capacity, call, id.
local r = load(ARGV[4])
if not r or r.state ~= 'assigned' or over(r) then
  return {'unknown'}
end
local event = remove(r)
redis.call('SET', token_key(r), 'over:' .. whole(now + RETENTION), 'PX', 2 * RETENTION)
return remember({'ok', r.text, whole(event)})
