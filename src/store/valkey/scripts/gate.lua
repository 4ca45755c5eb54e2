-- What a step begins with, after a line that says what TENURE is: only a store that was vouched for since its process
-- began, and that has lost nothing since, has that tenure.
if redis.call('GET', KEYS[1] .. ':tenure') ~= TENURE then
  return {'closed'}
end
