-- Makes a ready instance warming, so that no claim gets it.
--
-- ARGV: now, capacity, call, id.
local before = load_record(ARGV[4])
if not before then
  return {'unknown'}
end
if before.state ~= 'ready' then
  return {'refused', visible_state(before), 'be withdrawn'}
end
local record = copy_record(before)
record.state, record.endpoint = 'warming', ''
replace(record, before)
return remember({'ok', record.text})
