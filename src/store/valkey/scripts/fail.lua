-- Ends an instance whose app died. Answers the record as it was, and as it is now if there still is one.
--
-- ARGV: now, capacity, call, id.
local before = load_record(ARGV[4])
if not before or before.state == 'expired' or is_over(before) then
  return {'unknown'}
end
local after = ''
if before.state == 'assigned' then
  local record = copy_record(before)
  record.state, record.ended, record.ending = 'expired', now, 'failed'
  replace(record, before)
  after = record.text
else
  remove(before)
end
return remember({'ok', before.text, after})
