-- The start of each step, after a line that defines TERM. Only a Valkey that was verified since its process began, and
-- has lost nothing since, has that term.
if redis.call('GET', KEYS[1] .. ':tenure') ~= TERM then
  return {'unverified'}
end
