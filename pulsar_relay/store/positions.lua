#!lua flags=no-writes
-- Where the streams of some topics stand, without touching a payload.
--
-- KEYS  stream and meta hash of each topic, alternating
-- Reply: epoch or '' and last id ever given or '' of each topic, alternating

local reply = {}
for i = 1, #KEYS, 2 do
    local stream, meta = KEYS[i], redis.call('HMGET', KEYS[i + 1], 'epoch', 'last')
    local last = meta[2] or ''
    if redis.call('XRANGE', stream, last == '' and '-' or '(' .. last, '+', 'COUNT', 1)[1] then
        -- Somebody else wrote to the stream since.
        last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][1]
    end
    reply[i], reply[i + 1] = meta[1] or '', last
end
return reply
