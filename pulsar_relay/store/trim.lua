#!lua
-- Remove entries older than a time from a topic's stream, in whole nodes, but never the newest entry.
--
-- KEYS  1 stream   ARGV  1 time in milliseconds   Reply: how many entries went

local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not top then
    return 0
end
local top_ms = string.match(top[1], '^(%d+)-')
if #top_ms < #ARGV[1] or (#top_ms == #ARGV[1] and top_ms < ARGV[1]) then
    return redis.call('XTRIM', KEYS[1], 'MINID', '~', top[1])
end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1])
