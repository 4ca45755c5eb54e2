-- Removes an instance that no visitor has or had.
--
-- ARGV: now, capacity, call, id.
local record = load_record(ARGV[4])
if not record then
  return {'unknown'}
end
if record.state ~= 'warming' and record.state ~= 'ready' then
  return {'refused', visible_state(record), 'be retired'}
end
remove(record)
return remember({'ok', record.text})
