#!lua flags=allow-oom
-- Remove entries older than a time from a topic's stream, but never the newest entry.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 time in milliseconds   2 most entries to remove in this call, about
-- Reply: how many entries went, or nil if there is no such topic
--
-- Runs on a full server too: it is what makes room again.

local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not top then
    if redis.call('HEXISTS', KEYS[2], 'epoch') == 1 or redis.call('EXISTS', KEYS[1]) == 1 then
        return 0
    end
    return nil
end
local bound, top_ms = ARGV[1], string.match(top[1], '^(%d+)-')
if #top_ms < #bound or (#top_ms == #bound and top_ms < bound) then
    bound = top[1]
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', bound, 'LIMIT', ARGV[2])
if removed < tonumber(ARGV[2]) - 100 then
    -- Whole nodes are gone; the rest shares a node with younger entries.
    removed = removed + redis.call('XTRIM', KEYS[1], 'MINID', '=', bound)
end
return removed
