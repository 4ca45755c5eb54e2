-- Undoes an unconfirmed claim: its instance is ready again, at the front of the queue, and its token is spent. A token
-- that has no instance is spent too, so that a claim that is still on its way gets none.
--
-- ARGV: now, capacity, call, template, token, visitor, '1' if the visitor was charged.
local key = PREFIX .. ':token:' .. ARGV[4] .. ':' .. ARGV[5]
local got = redis.call('GET', key)
local function spend_token()
  redis.call('SET', key, 'over:' .. whole(now + RETENTION), 'PX', 2 * RETENTION)
end
local spent_until = got and tonumber(string.match(got, '^over:(%d+)$'))
if not got or (spent_until and spent_until <= now) then
  spend_token()
  return {'unknown'}
end
local before = load_record(got)
if not before or before.state ~= 'assigned' or is_over(before)
    or not is_unconfirmed(before.id) then
  return {'unknown'}
end
local record = copy_record(before)
record.state, record.token, record.assigned, record.deadline, record.front = 'ready', '', nil, nil, true
replace(record, before)
spend_token()

-- A window that opened after the charge does not contain it. A window without any other charge was never opened.
for _, network in ipairs(ARGV[7] == '1' and networks_of(ARGV[6]) or {}) do
  local usage = PREFIX .. ':usage:' .. ARGV[4] .. ':' .. network.name
  for _, window in ipairs({'hour', 'day'}) do
    local opened = tonumber(redis.call('HGET', usage, window) or '')
    if opened and opened <= before.assigned and redis.call('HINCRBY', usage, window .. '_used', -1) <= 0 then
      redis.call('HDEL', usage, window, window .. '_used')
    end
  end
end
return remember({'ok', record.id, record.text})
