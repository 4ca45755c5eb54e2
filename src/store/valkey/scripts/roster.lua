-- ARGV: now, capacity. All members.
return members({})
