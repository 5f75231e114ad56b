#!lua flags=no-writes
-- What is stored of a topic, and what was said of it.
--
-- KEYS  1 stream   2 meta hash
-- Reply {epoch or '', entries, id of the oldest entry or '', last id ever given or '', when it was made in
--       Unix milliseconds or '', its description or false, its own most messages or '', its own retention in
--       milliseconds or ''}, or nil if there is no such topic

local function end_id(command, from, to)
    local entry = redis.call(command, KEYS[1], from, to, 'COUNT', 1)[1]
    return entry and entry[1]
end

local meta = redis.call(
    'HMGET', KEYS[2], 'epoch', 'last', 'created', 'description', 'max_messages', 'retention_ms'
)
local length = redis.call('XLEN', KEYS[1])
if not meta[1] and length == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
    return nil
end
local last = meta[2] or ''
if redis.call('XRANGE', KEYS[1], last == '' and '-' or '(' .. last, '+', 'COUNT', 1)[1] then
    -- Somebody else wrote to the stream since.
    last = end_id('XREVRANGE', '+', '-')
end
return {
    meta[1] or '', length, end_id('XRANGE', '-', '+') or '', last,
    meta[3] or '', meta[4], meta[5] or '', meta[6] or '',
}
