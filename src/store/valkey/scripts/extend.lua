-- ARGV: now, capacity, id, by, longest.
local before = load(ARGV[3])
if not before or before.state ~= 'assigned' or over(before) then
  return {'unknown'}
end
local r = copy(before)
r.deadline = before.deadline + tonumber(ARGV[4])
if r.deadline > before.assigned + tonumber(ARGV[5]) then
  return {'beyond'}
end
replace(r, before)
return {'ok', r.text}
