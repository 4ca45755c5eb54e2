-- Checks whether the store is verified, and begins a recovery if it is not.
--
-- ARGV: now, capacity, process, epoch, round, the term or the round whose data is damaged (empty if none is).
-- Answers: 'verified', the term and the number of the newest node's first heartbeat, if the term is of this process and
-- not older than the epoch; else 'recovering' and the round of the recovery that is in progress. Without one, the
-- recovery begins with the given round.
local RECOVERING = PREFIX .. ':recovering'
-- A key of another type, or a number that is none, would let every call fail. Such a key is lost, and so is the term.
local TYPES = {tenure = 'string', settled = 'string', secret = 'string', recovering = 'hash', expected = 'set',
  reported = 'set', ended = 'hash', nodes = 'hash', beats = 'zset', draining = 'set', evicted = 'zset',
  joined = 'hash', informed = 'hash', counts = 'hash', due = 'zset', routes = 'stream', turn = 'number',
  front = 'number', events = 'number', beat = 'number', newest = 'number', since = 'number'}
for name, wanted in pairs(TYPES) do
  local key = PREFIX .. ':' .. name
  local is = redis.call('TYPE', key).ok
  local is_number = wanted == 'number' and is == 'string' and string.match(redis.call('GET', key), '^%-?%d+$')
  if is ~= 'none' and is ~= wanted and not is_number then
    redis.call('UNLINK', key, PREFIX .. ':tenure')
  end
end
local term = redis.call('GET', PREFIX .. ':tenure')
local epoch = tonumber(ARGV[4])
if term then
  local its_epoch, process = string.match(term, '^(%d+)%.%x+%.(.*)$')
  if process == ARGV[3] and tonumber(its_epoch) >= epoch and term ~= ARGV[6] then
    return {'verified', term, redis.call('GET', PREFIX .. ':newest') or '0'}
  end
  epoch = math.max(epoch, tonumber(its_epoch) or 0)
  redis.call('DEL', PREFIX .. ':tenure')
end
local recovering = redis.call('HMGET', RECOVERING, 'process', 'round')
if recovering[1] ~= ARGV[3] or not recovering[2] or recovering[2] == ARGV[6] then
  epoch = math.max(epoch, tonumber(redis.call('HGET', RECOVERING, 'epoch')) or 0)
  for _, node in ipairs(redis.call('SMEMBERS', PREFIX .. ':expected')) do
    redis.call('UNLINK', PREFIX .. ':asserted:' .. node)
  end
  redis.call('UNLINK', RECOVERING, PREFIX .. ':expected', PREFIX .. ':reported', PREFIX .. ':ended',
    PREFIX .. ':settled')
  redis.call('HSET', RECOVERING, 'process', ARGV[3], 'round', ARGV[5], 'heard', whole(real_now))
end
redis.call('HSET', RECOVERING, 'epoch', whole(math.max(epoch, tonumber(redis.call('HGET', RECOVERING, 'epoch')) or 0)))
return {'recovering', redis.call('HGET', RECOVERING, 'round')}
