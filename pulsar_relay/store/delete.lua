#!lua
-- Delete a topic's stream, and remember for a while the last id it gave, so that it gives none twice.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 milliseconds to remember   Reply: the last id, or nil if there was no such topic

local meta = redis.call('HMGET', KEYS[2], 'epoch', 'last')
local existed = redis.call('EXISTS', KEYS[1]) == 1
if not existed and not meta[1] then
    return nil
end
local last = meta[2]
if not last then
    last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
end
redis.call('UNLINK', KEYS[1])
redis.call('HDEL', KEYS[2], 'epoch')
redis.call('HSET', KEYS[2], 'last', last)
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return last
