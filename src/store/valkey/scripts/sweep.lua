-- ARGV: now, capacity, call, limit. How many were done something with, then the id and the record of each that became expired.
local done = {'0'}
local count = 0
-- Of a time when no server could reach this one, nothing can be said.
local since = tonumber(redis.call('GET', P .. ':since') or '0') or 0
while count < tonumber(ARGV[4]) do
  local first = redis.call('ZRANGE', P .. ':due', 0, 0, 'WITHSCORES')
  if not first[1] or tonumber(first[2]) > now then
    break
  end
  local before = load(first[1])
  local waits = before.state == 'assigned' and not over(before) and since + UNCONFIRMED_FOR > now
  if waits then
    wait_until_confirmed(before.id, before.deadline, since)
  elseif before.state == 'assigned' then
    local r = copy(before)
    if over(before) then
      r.state, r.ended, r.ending = 'expired', before.deadline, 'expired'
    else
      -- Nobody confirmed it.
      r.state, r.ended, r.ending = 'expired', now, 'failed'
    end
    replace(r, before)
    done[#done + 1], done[#done + 2] = r.id, r.text
  else
    remove(before)
    redis.call('DEL', token_key(before))
  end
  count = count + 1
end
done[1] = whole(count)
if count == 0 then
  return done
end
return remember(done)
