-- Removes an assigned instance that its visitor returns. Its token is spent. Answers the record and the route event.
--
-- ARGV: now, capacity, call, id.
local record = load_record(ARGV[4])
if not record or record.state ~= 'assigned' or is_over(record) then
  return {'unknown'}
end
local event = remove(record)
redis.call('SET', token_key(record), 'over:' .. whole(now + RETENTION), 'PX', 2 * RETENTION)
return remember({'ok', record.text, whole(event)})
