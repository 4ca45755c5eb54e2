-- Moves the deadline of an assigned instance, and charges the visitor for whom it was claimed.
--
-- ARGV: now, capacity, call, id, by, longest time from the assignment, hourly, daily.
-- Answers: 'ok' and the record; 'unknown'; 'beyond'; or 'limited', the present, and the usages of the visitor's
-- networks (see `append_usages`).
local before = load_record(ARGV[4])
if not before or before.state ~= 'assigned' or is_over(before) then
  return {'unknown'}
end
local record = copy_record(before)
record.deadline = before.deadline + tonumber(ARGV[5])
if record.deadline > before.assigned + tonumber(ARGV[6]) then
  return {'beyond'}
end
local hourly, daily = tonumber(ARGV[7]), tonumber(ARGV[8])
local usages = (hourly > 0 or daily > 0) and usages_of(template_of(before.id), before.visitor) or {}
if is_used_up(usages, hourly, daily) then
  return append_usages({'limited', whole(now)}, usages)
end
charge(usages)
replace(record, before)
return remember({'ok', record.text})
