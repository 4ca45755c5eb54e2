-- ARGV: now, capacity, id.
local r = load(ARGV[3])
if not r then
  return {'unknown'}
end
if r.state ~= 'warming' and r.state ~= 'ready' then
  return {'refused', seen(r), 'be retired'}
end
remove(r)
return {'ok', r.text}
