-- Makes a warming instance ready.
--
-- ARGV: now, capacity, call, id, endpoint.
local before = load_record(ARGV[4])
if not before then
  return {'unknown'}
end
if before.state ~= 'warming' then
  return {'refused', visible_state(before), 'be offered'}
end
local record = copy_record(before)
record.state, record.endpoint = 'ready', ARGV[5]
replace(record, before)
return remember({'ok', record.text})
