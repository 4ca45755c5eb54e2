-- ARGV: now, capacity, call, id. The record as it was, and as it is now if there still is one.
local before = load(ARGV[4])
if not before or before.state == 'expired' or over(before) then
  return {'unknown'}
end
local after = ''
if before.state == 'assigned' then
  local r = copy(before)
  r.state, r.ended, r.ending = 'expired', now, 'failed'
  replace(r, before)
  after = r.text
else
  remove(before)
end
return remember({'ok', before.text, after})
