-- Records a new, warming instance.
--
-- ARGV: now, capacity, call, id, record.
local id, text = ARGV[4], ARGV[5]
if redis.call('EXISTS', PREFIX .. ':record:' .. id) == 1 then
  return {'exists'}
end
local record = unpack_record(id, text)
if record.state ~= 'warming' then
  return {'refused', record.state, 'be inserted'}
end
redis.call('SET', PREFIX .. ':record:' .. id, text)
redis.call('SADD', PREFIX .. ':node:' .. record.node, id)
reindex(nil, record)
return remember({'ok'})
