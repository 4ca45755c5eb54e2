-- ARGV: now, capacity, call, id, by, longest.
local before = load(ARGV[4])
if not before or before.state ~= 'assigned' or over(before) then
  return {'unknown'}
end
local r = copy(before)
r.deadline = before.deadline + tonumber(ARGV[5])
if r.deadline > before.assigned + tonumber(ARGV[6]) then
  return {'beyond'}
end
replace(r, before)
return remember({'ok', r.text})
