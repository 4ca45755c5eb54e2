-- What a script that changes something begins with: asked again by the same name, it answers the same, and does nothing.
for ago = 0, 1 do
  local answer = redis.call('HGET', calls(SPAN - ago), ARGV[3])
  if answer then
    return cjson.decode(answer)
  end
end
