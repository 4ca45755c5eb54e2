-- ARGV: now, capacity, id, endpoint.
local before = load(ARGV[3])
if not before then
  return {'unknown'}
end
if before.state ~= 'warming' then
  return {'refused', seen(before), 'be offered'}
end
local r = copy(before)
r.state, r.endpoint = 'ready', ARGV[4]
replace(r, before)
return {'ok', r.text}
