-- ARGV: now, capacity, id.
local before = load(ARGV[3])
if not before or before.state == 'expired' or over(before) then
  return {'unknown'}
end
if before.state == 'assigned' then
  local r = copy(before)
  r.state, r.ended, r.ending = 'expired', now, 'failed'
  replace(r, before)
else
  remove(before)
end
return {'ok', before.text}
