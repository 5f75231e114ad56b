#!lua flags=allow-oom
-- Delete a topic with all that was said of it, and remember for a while the last id it gave, so that it gives
-- none twice.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 milliseconds to remember
-- Reply: the last id, or nil if there was no such topic
--
-- Runs on a full server too: it is what makes room again.

local meta = redis.call('HMGET', KEYS[2], 'epoch', 'last')
if not meta[1] and redis.call('EXISTS', KEYS[1]) == 0 then
    return nil
end
local last = meta[2] or '0-0'
if redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1] then
    -- Somebody else wrote to the stream since.
    last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
end
redis.call('UNLINK', KEYS[1])
redis.call('DEL', KEYS[2])
if last ~= '0-0' then
    redis.call('HSET', KEYS[2], 'last', last)
    redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
return last
