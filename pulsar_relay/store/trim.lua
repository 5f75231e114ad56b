#!lua flags=allow-oom
-- Remove entries older than a time from a topic's stream, in whole nodes, but never the newest entry.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 time in milliseconds
-- Reply: how many entries went (at most about 10,000 in one call), or nil if there is no such topic
--
-- Runs on a full server too: it is what makes room again.

local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not top then
    if redis.call('HEXISTS', KEYS[2], 'epoch') == 1 or redis.call('EXISTS', KEYS[1]) == 1 then
        return 0
    end
    return nil
end
local top_ms = string.match(top[1], '^(%d+)-')
if #top_ms < #ARGV[1] or (#top_ms == #ARGV[1] and top_ms < ARGV[1]) then
    return redis.call('XTRIM', KEYS[1], 'MINID', '~', top[1])
end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1])
