#!lua flags=no-writes
-- Where a topic's stream stands, without touching a payload.
--
-- KEYS  1 stream   2 meta hash
-- Reply {epoch or '', last id ever given or '', entries, id of the oldest entry or ''}

local function end_id(command, from, to)
    local entry = redis.call(command, KEYS[1], from, to, 'COUNT', 1)[1]
    return entry and entry[1] or ''
end

local meta = redis.call('HMGET', KEYS[2], 'epoch', 'last')
local length = redis.call('XLEN', KEYS[1])
local last = meta[2] or (length > 0 and end_id('XREVRANGE', '+', '-')) or ''
return {meta[1] or '', last, length, length > 0 and end_id('XRANGE', '-', '+') or ''}
