#!lua flags=no-writes
-- What proves where the reader of a page stands: what read.lua tells of it, for a page read without that.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 cursor, exclusive   2 id up to which the page was read
-- Reply {epoch or '', last id ever given or '', id of the oldest entry or '', its predecessor or '',
--        1 if the cursor is an entry else 0, largest entry in bytes or '' if unknown,
--        1 if there are entries after ARGV 2 else 0, the id before and the first of the entries that
--        went because they had expired, up to the oldest entry's predecessor, or ''}

local stream = KEYS[1]
local meta = redis.call('HMGET', KEYS[2], 'epoch', 'last', 'largest', 'expired_from', 'expired_to')
local last, largest = meta[2] or '', meta[3] or ''
if redis.call('XRANGE', stream, last == '' and '-' or '(' .. last, '+', 'COUNT', 1)[1] then
    -- Somebody else wrote to the stream since.
    last, largest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][1], ''
end
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local oldest_prev = ''
if oldest then
    for i = 1, #oldest[2], 2 do
        if oldest[2][i] == 'prev' then
            oldest_prev = oldest[2][i + 1]
        end
    end
end
return {
    meta[1] or '', last, oldest and oldest[1] or '', oldest_prev,
    #redis.call('XRANGE', stream, ARGV[1], ARGV[1]), largest,
    last ~= ARGV[2] and #redis.call('XRANGE', stream, '(' .. ARGV[2], '+', 'COUNT', 1) or 0,
    meta[5] == oldest_prev and meta[4] or '',
}
