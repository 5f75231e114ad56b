#!lua flags=allow-oom
-- Remove from a topic's stream what need not be kept: what has expired at its old end, what is more than its
-- most messages, what is older than its retention. Never the newest entry.
--
-- KEYS  1 stream   2 meta hash
-- ARGV  1 now, Unix milliseconds   2 milliseconds a message is kept, and 3 most messages kept, unless the
--       topic has its own   4 'exact': these two hold whatever the topic has, and to the message
-- Reply {how many entries went, 1 if there may be more to remove else 0, id of the oldest entry left or ''},
--       or nil if there is no such topic
--
-- Runs on a full server too: it is what makes room again. Each call is short, so that others get their turn.

local stream, meta = KEYS[1], KEYS[2]
local TRIMMED_AT_ONCE, EXACT_UP_TO = 10000, 1000
local LOOKED_AT_ONCE, LOOKED_BYTES, READ_BYTES = 2000, 16 * 1024 * 1024, 1024 * 1024

local said = redis.call(
    'HMGET', meta, 'epoch', 'largest', 'retention_ms', 'max_messages', 'expired_from', 'expired_to'
)
local top = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if not top then
    if said[1] or redis.call('EXISTS', stream) == 1 then
        return {0, 0, ''}
    end
    return nil
end
-- Ids are the time of this server, expiries that of relays. A clock that is ahead must not delete anything:
-- the earlier of the two decides (this one's second, rounded up).
local now, newest = math.min(tonumber(ARGV[1]), tonumber(redis.call('TIME')[1]) * 1000 + 999), top[1]

local function field(entry, name)
    local fields = entry[2]
    for i = 1, #fields, 2 do
        if fields[i] == name then
            return fields[i + 1]
        end
    end
    return ''
end

local function is_expired(entry)
    local expiry = string.match(field(entry, 'expires_at'), '^%d+$')
    return expiry ~= nil and tonumber(expiry) <= now
end

-- Expired entries between others stay where they are: an entry must find the one before it, or its reader
-- would be told of a gap. Of those at the old end it is noted which were the first and
-- the last in a row, and what came before, so that nobody is told of a loss that is none.
local function trim_expired()
    local largest = tonumber(said[2])
    local step = largest and math.max(1, math.min(100, math.floor(READ_BYTES / (largest + 64)))) or 1
    local place, count, looked, bytes, is_enough = '-', 1, 0, 0, false
    local from, last, bound
    while not bound do
        for _, entry in ipairs(redis.call('XRANGE', stream, place, '+', 'COUNT', count)) do
            if is_enough or entry[1] == newest or not is_expired(entry) then
                bound = entry[1]
                break
            end
            local prev = field(entry, 'prev')
            if not last and prev ~= '' and (prev ~= '0-0' or string.match(entry[1], '%-1$')) then
                from = said[6] == prev and said[5] or prev .. ' ' .. entry[1]
            elseif prev ~= last then
                -- Another history begins here, or nobody says what was before.
                from = entry[1] .. ' ' .. entry[1]
            end
            last, looked, bytes = entry[1], looked + 1, bytes + #field(entry, 'payload')
            is_enough = looked >= LOOKED_AT_ONCE or bytes >= LOOKED_BYTES
        end
        place, count = '(' .. (last or ''), step
    end
    if looked == 0 then
        return 0, false
    end
    redis.call('XTRIM', stream, 'MINID', '=', bound)
    redis.call('HSET', meta, 'expired_from', from, 'expired_to', last)
    return looked, is_enough
end

local is_exact = ARGV[4] == 'exact'

local function trim_to_length(most)
    local excess = redis.call('XLEN', stream) - most
    if excess <= 0 then
        return 0, false
    end
    local is_far = excess > TRIMMED_AT_ONCE
    -- Whole blocks only, which is quicker, where some messages more are not felt.
    local how = ((most > EXACT_UP_TO and not is_exact) or is_far) and '~' or '='
    return redis.call('XTRIM', stream, 'MAXLEN', how, most), is_far
end

local function trim_to_age(milliseconds)
    local bound = string.format('%.0f', math.max(0, now - milliseconds))
    local top_ms = string.match(newest, '^(%d+)-')
    if #top_ms < #bound or (#top_ms == #bound and top_ms < bound) then
        bound = newest
    end
    local removed = redis.call('XTRIM', stream, 'MINID', '~', bound, 'LIMIT', TRIMMED_AT_ONCE)
    if removed >= TRIMMED_AT_ONCE - 100 then
        return removed, true
    end
    -- Whole blocks are gone; the rest shares one with younger entries.
    return removed + redis.call('XTRIM', stream, 'MINID', '=', bound), false
end

local total, has_more = 0, false
for _, step in ipairs({
    {trim_expired},
    {trim_to_length, tonumber(not is_exact and said[4] or ARGV[3])},
    {trim_to_age, tonumber(not is_exact and said[3] or ARGV[2])},
}) do
    local removed, is_unfinished = step[1](step[2])
    total, has_more = total + removed, has_more or is_unfinished
end
return {total, has_more and 1 or 0, redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1][1]}
