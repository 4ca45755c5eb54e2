-- What a script that changes something begins with: asked again by the same name, it answers the same, and does nothing.
local answer = redis.call('GET', P .. ':call:' .. ARGV[3])
if answer then
  return cjson.decode(answer)
end
