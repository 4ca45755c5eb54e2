-- ARGV: now, capacity, call, template, token, visitor, whether there are limits.
local key = P .. ':token:' .. ARGV[4] .. ':' .. ARGV[5]
local got = redis.call('GET', key)
local function give_none()
  redis.call('SET', key, 'over:' .. whole(now + RETENTION), 'PX', 2 * RETENTION)
end
local until_when = got and tonumber(string.match(got, '^over:(%d+)$'))
if not got or (until_when and until_when <= now) then
  give_none()
  return {'unknown'}
end
local before = load(got)
if not before or before.state ~= 'assigned' or over(before)
    or not is_unconfirmed(before.id) then
  return {'unknown'}
end
local r = copy(before)
r.state, r.token, r.assigned, r.deadline, r.front = 'ready', '', nil, nil, true
replace(r, before)
give_none()

-- A window that opened after the charge does not hold it; one that counts nothing else was never opened.
if ARGV[7] == '1' then
  local usage = P .. ':usage:' .. ARGV[4] .. ':' .. ARGV[6]
  for _, window in ipairs({'hour', 'day'}) do
    local opened = tonumber(redis.call('HGET', usage, window) or '')
    if opened and opened <= before.assigned and redis.call('HINCRBY', usage, window .. '_used', -1) <= 0 then
      redis.call('HDEL', usage, window, window .. '_used')
    end
  end
end
return remember({'ok', r.id, r.text})
