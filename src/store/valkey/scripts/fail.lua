-- ARGV: now, capacity, call, id.
local known = answered()
if known then
  return known
end
local before = load(ARGV[4])
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
return remember({'ok', before.text})
