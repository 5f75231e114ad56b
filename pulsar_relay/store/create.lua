#!lua
-- Make a topic that has no messages yet.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 its epoch   2... what is said of it: field, value, ...
-- Reply: 1, or nil if there is such a topic already
--
-- A deleted topic's last id stays where it is: what is appended now continues above it.

if redis.call('HEXISTS', KEYS[2], 'epoch') == 1 or redis.call('EXISTS', KEYS[1]) == 1 then
    return nil
end
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'created', now, unpack(ARGV, 2))
redis.call('PERSIST', KEYS[2])
return 1
