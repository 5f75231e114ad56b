#!lua flags=no-writes
-- Read one page of a topic's stream, bounded by entries and by bytes, with what proves where the reader stands.
--
-- KEYS  1 stream   2 meta hash
-- ARGV  1 cursor, exclusive ('' for the end where the direction begins)   2 most entries   3 most bytes   4 'asc' or 'desc'
-- Reply {epoch or '', last or '', id of the oldest entry or '', its predecessor or '', 1 if the cursor is an entry else 0,
--        1 if there is more else 0, entries}
--
-- XRANGE cannot be bounded by bytes, and an entry may be large: entries are fetched in steps sized by what was seen so far.

local stream = KEYS[1]
local cursor, most_entries, most_bytes, descends = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == 'desc'

local function field(entry, name)
    local fields = entry[2]
    for i = 1, #fields, 2 do
        if fields[i] == name then
            return fields[i + 1]
        end
    end
    return ''
end

local function size(entry)
    local bytes = 0
    for _, value in ipairs(entry[2]) do
        bytes = bytes + #value
    end
    return bytes
end

local function step(after, count)
    local from = after == '' and (descends and '+' or '-') or '(' .. after
    if descends then
        return redis.call('XREVRANGE', stream, from, '-', 'COUNT', count)
    end
    return redis.call('XRANGE', stream, from, '+', 'COUNT', count)
end

local meta = redis.call('HMGET', KEYS[2], 'epoch', 'last')
local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
local last = meta[2]
if not last then
    local top = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
    last = top and top[1] or ''
end

local entries, bytes, after, has_more, count = {}, 0, cursor, 0, 2
while true do
    local asked = math.min(count, most_entries - #entries + 1)
    local found = step(after, asked)
    local is_full = false
    for _, entry in ipairs(found) do
        local entry_bytes = size(entry)
        if #entries >= most_entries or (#entries > 0 and bytes + entry_bytes > most_bytes) then
            has_more, is_full = 1, true
            break
        end
        entries[#entries + 1] = entry
        bytes = bytes + entry_bytes
        after = entry[1]
    end
    if is_full or #found < asked then
        break
    end
    -- As many as the average entry so far lets expect to fit, at most eight times what was taken.
    local fitting = math.floor((most_bytes - bytes) / (bytes / #entries + 1)) + 1
    count = math.max(1, math.min(fitting, #entries * 8))
end

local knows = 0
if cursor ~= '' and not descends and #redis.call('XRANGE', stream, cursor, cursor) > 0 then
    knows = 1
end
return {
    meta[1] or '', last, oldest and oldest[1] or '', oldest and field(oldest, 'prev') or '', knows, has_more, entries,
}
