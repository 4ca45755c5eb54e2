-- ARGV: now, capacity, call, id.
local r = load(ARGV[4])
if not r then
  return {'unknown'}
end
if r.state ~= 'warming' and r.state ~= 'ready' then
  return {'refused', seen(r), 'be retired'}
end
remove(r)
return remember({'ok', r.text})
