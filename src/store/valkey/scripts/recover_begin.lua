-- Checks whether the store is verified, and begins a recovery if it is not.
--
-- ARGV: now, capacity, process, epoch, round.
-- Answers: 'verified', the term and the number of the newest node's first heartbeat, if the term is of this process and
-- not older than the epoch; else 'recovering' and the round of the recovery that is in progress. Without one, the
-- recovery begins with the given round.
local RECOVERING = PREFIX .. ':recovering'
local term = redis.call('GET', PREFIX .. ':tenure')
local epoch = tonumber(ARGV[4])
if term then
  local its_epoch, process = string.match(term, '^(%d+)%.%x+%.(.*)$')
  if process == ARGV[3] and tonumber(its_epoch) >= epoch then
    return {'verified', term, redis.call('GET', PREFIX .. ':newest') or '0'}
  end
  epoch = math.max(epoch, tonumber(its_epoch) or 0)
  redis.call('DEL', PREFIX .. ':tenure')
end
if redis.call('HGET', RECOVERING, 'process') ~= ARGV[3] then
  for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. ':expected')) do
    redis.call('UNLINK', PREFIX .. ':asserted:' .. node)
  end
  redis.call('UNLINK', RECOVERING, PREFIX .. ':expected', PREFIX .. ':reported', PREFIX .. ':ended',
    PREFIX .. ':settled')
  redis.call('HSET', RECOVERING, 'process', ARGV[3], 'round', ARGV[5], 'heard', whole(real_now))
end
redis.call('HSET', RECOVERING, 'epoch', whole(math.max(epoch, tonumber(redis.call('HGET', RECOVERING, 'epoch')) or 0)))
return {'recovering', redis.call('HGET', RECOVERING, 'round')}
