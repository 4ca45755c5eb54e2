-- Ends what is due: assigned instances past their deadline or unconfirmed for too long expire, and expired ones past
-- their retention are removed.
--
-- ARGV: now, capacity, call, limit.
-- Answers: how many records changed, then id and record of each instance that became expired.
local answer = {'0'}
local count = 0
-- In a time when no node could reach this Valkey no claim could be confirmed: that time does not count.
local since = tonumber(redis.call('GET', PREFIX .. ':since') or '0') or 0
while count < tonumber(ARGV[4]) do
  local first = redis.call('ZRANGE', PREFIX .. ':due', 0, 0, 'WITHSCORES')
  if not first[1] or tonumber(first[2]) > now then
    break
  end
  local before = load_record(first[1])
  local may_be_confirmed = before.state == 'assigned' and not is_over(before) and since + CONFIRM_TIMEOUT > now
  if may_be_confirmed then
    mark_unconfirmed(before.id, before.deadline, since)
  elseif before.state == 'assigned' then
    local record = copy_record(before)
    if is_over(before) then
      record.state, record.ended, record.ending = 'expired', before.deadline, 'expired'
    else
      -- Its claim was not confirmed in time.
      record.state, record.ended, record.ending, record.endpoint = 'expired', now, 'failed', 'unconfirmed'
    end
    replace(record, before)
    answer[#answer + 1], answer[#answer + 2] = record.id, record.text
  else
    remove(before)
    redis.call('DEL', token_key(before))
  end
  count = count + 1
end
answer[1] = whole(count)
if count == 0 then
  return answer
end
return remember(answer)
