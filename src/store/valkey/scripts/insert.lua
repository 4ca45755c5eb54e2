-- ARGV: now, capacity, call, id, record.
local id, text = ARGV[4], ARGV[5]
if redis.call('EXISTS', P .. ':record:' .. id) == 1 then
  return {'exists'}
end
local r = unpack_record(id, text)
if r.state ~= 'warming' then
  return {'refused', r.state, 'be inserted'}
end
redis.call('SET', P .. ':record:' .. id, text)
redis.call('SADD', P .. ':node:' .. r.node, id)
move(nil, r)
return remember({'ok'})
