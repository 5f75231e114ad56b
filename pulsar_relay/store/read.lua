#!lua flags=no-writes
-- Read one page of a topic's stream, bounded by entries and bytes, with what proves where its reader stands.
--
-- KEYS  1 stream   2 meta hash
-- ARGV  1 cursor, exclusive ('' for the end where the direction begins)   2 most entries   3 most bytes
--       4 'asc' or 'desc'
-- Reply {epoch or '', last id ever given or '', id of the oldest entry or '', its predecessor or '',
--        1 if the cursor is an entry else 0, largest entry in bytes or '' if unknown,
--        1 if there is more else 0, entries, the id before and the first of the entries that went because
--        they had expired, up to the oldest entry's predecessor, or ''}; at least one entry if there is any
--
-- XRANGE cannot be bounded by bytes. What it could bring at most is known where we wrote all entries
-- ourselves: the largest one is kept in the meta hash. Elsewhere entries are fetched one by one.

local stream = KEYS[1]
local cursor, most_entries, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local descends = ARGV[4] == 'desc'
local LAST_OF_ALL = '18446744073709551615-18446744073709551615'

local function field(entry, name)
    local fields = entry[2]
    for i = 1, #fields, 2 do
        if fields[i] == name then
            return fields[i + 1]
        end
    end
    return ''
end

local function step(place, count)
    if place == (descends and '0-0' or LAST_OF_ALL) then
        return {}
    elseif descends then
        return redis.call('XREVRANGE', stream, place == '' and '+' or '(' .. place, '-', 'COUNT', count)
    end
    return redis.call('XRANGE', stream, place == '' and '-' or '(' .. place, '+', 'COUNT', count)
end

local meta = redis.call('HMGET', KEYS[2], 'epoch', 'last', 'largest', 'expired_from', 'expired_to')
local last, largest = meta[2] or '', tonumber(meta[3])
local from = last == '' and '-' or '(' .. last
if last ~= LAST_OF_ALL and redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1] then
    -- Somebody else wrote to the stream since.
    last, largest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][1], nil
end

local entries, bytes, place, has_more = {}, 0, cursor, false
while not has_more do
    local count = 1
    if largest then
        count = math.max(1, math.floor((2 * most_bytes - bytes) / (largest + 64)))
    end
    count = math.min(count, most_entries - #entries + 1)
    local found = step(place, count)
    for _, entry in ipairs(found) do
        local fields = entry[2]
        local entry_bytes = 0
        for i = 2, #fields, 2 do
            entry_bytes = entry_bytes + #fields[i]
        end
        if #entries >= most_entries or (#entries > 0 and bytes + entry_bytes > most_bytes) then
            has_more = true
            break
        end
        entries[#entries + 1] = entry
        bytes = bytes + entry_bytes
    end
    if #found < count then
        break
    end
    place = entries[#entries][1]
end

local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local oldest_prev = oldest and field(oldest, 'prev') or ''
local knows = cursor ~= '' and redis.call('XRANGE', stream, cursor, cursor)[1]
return {
    meta[1] or '', last, oldest and oldest[1] or '', oldest_prev, knows and 1 or 0,
    largest and meta[3] or '', has_more and 1 or 0, entries, meta[5] == oldest_prev and meta[4] or '',
}
