-- ARGV: now, capacity, call, id, endpoint.
local before = load(ARGV[4])
if not before then
  return {'unknown'}
end
if before.state ~= 'warming' then
  return {'refused', seen(before), 'be offered'}
end
local r = copy(before)
r.state, r.endpoint = 'ready', ARGV[5]
replace(r, before)
return remember({'ok', r.text})
