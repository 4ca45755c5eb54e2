-- Moves the deadline of an assigned instance.
--
-- ARGV: now, capacity, call, id, by, longest time from the assignment.
local before = load_record(ARGV[4])
if not before or before.state ~= 'assigned' or is_over(before) then
  return {'unknown'}
end
local record = copy_record(before)
record.deadline = before.deadline + tonumber(ARGV[5])
if record.deadline > before.assigned + tonumber(ARGV[6]) then
  return {'beyond'}
end
replace(record, before)
return remember({'ok', record.text})
