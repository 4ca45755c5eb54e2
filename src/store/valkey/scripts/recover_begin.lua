-- ARGV: now, capacity, process, epoch, round. 'open', the tenure and the number of the newest node's first beat, if the
-- tenure is of this process and no older than the epoch; else 'closed' and the round of the recovery that is under way, which is begun by that name if there is none.
local R = P .. ':recovering'
local tenure = redis.call('GET', P .. ':tenure')
local epoch = tonumber(ARGV[4])
if tenure then
  local its_epoch, process = string.match(tenure, '^(%d+)%.%x+%.(.*)$')
  if process == ARGV[3] and tonumber(its_epoch) >= epoch then
    return {'open', tenure, redis.call('GET', P .. ':newest') or '0'}
  end
  epoch = math.max(epoch, tonumber(its_epoch) or 0)
  redis.call('DEL', P .. ':tenure')
end
if redis.call('HGET', R, 'process') ~= ARGV[3] then
  for _, node in ipairs(redis.call('SMEMBERS', P .. ':expected')) do
    redis.call('UNLINK', P .. ':asserted:' .. node)
  end
  redis.call('UNLINK', R, P .. ':expected', P .. ':reported', P .. ':ended', P .. ':settled')
  redis.call('HSET', R, 'process', ARGV[3], 'round', ARGV[5], 'heard', whole(real))
end
redis.call('HSET', R, 'epoch', whole(math.max(epoch, tonumber(redis.call('HGET', R, 'epoch')) or 0)))
return {'closed', redis.call('HGET', R, 'round')}
