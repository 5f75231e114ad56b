#!lua
-- Put a stream that was filled from a backup in the place of a topic's stream, with its meta hash.
--
-- KEYS  1 stream   2 meta hash   3 the stream that was filled
-- ARGV  1 'new': there must be no messages; 'replace': what there is goes; 'merge': the filled stream has it
--       2 epoch the topic had when it was merged   3 up to which id it was
--       4 '1' if messages may be lost behind the backup's last one, which is the newest: the next one begins
--       a new history then   5 which restore this is, for when it is broken off and goes on
--       6 how many entries the filled stream has, or '' after reply 2   7... the meta hash: field, value, ...
-- Reply 1 done; 0 nothing was done: there are messages, or the topic is not the one that was merged; 2 some
--       of the topic's messages were added to the filled stream, and there are more: call again; 3 nothing
--       was done: somebody else has filled that stream too, or emptied it
--
-- Ids that were given before are not given again, whatever takes the place of their messages.

local stream, meta, filled = KEYS[1], KEYS[2], KEYS[3]
local COPIED_AT_ONCE = 1000

local function padded(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    if not ms or #ms > 20 or #n > 20 then
        return ''
    end
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #n) .. n
end

local function later(one, other)
    return padded(one) < padded(other) and other or one
end

local function newest(key)
    local entry = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    return entry and entry[1] or '0-0'
end

if ARGV[6] ~= '' and redis.call('XLEN', filled) ~= tonumber(ARGV[6]) then
    return 3
end
local known = redis.call('HMGET', meta, 'epoch', 'last')
if ARGV[1] == 'new' and redis.call('XLEN', stream) > 0 then
    return 0
elseif ARGV[1] == 'merge' then
    if (known[1] or '') ~= ARGV[2] then
        return 0
    end
    local after = later(ARGV[3], newest(filled))
    local first = redis.call('XRANGE', stream, '(' .. ARGV[3], after, 'COUNT', 1)[1]
    if first and not redis.call('XRANGE', filled, first[1], first[1])[1] then
        -- Appended since, and below what the backup holds: it cannot be added at the end.
        return 0
    end
    local entries = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', COPIED_AT_ONCE)
    for _, entry in ipairs(entries) do
        redis.call('XADD', filled, entry[1], unpack(entry[2]))
    end
    if #entries == COPIED_AT_ONCE then
        return 2
    end
end

local given = later(known[2] or '0-0', newest(stream))
if redis.call('EXISTS', filled) == 1 then
    redis.call('RENAME', filled, stream)
    redis.call('PERSIST', stream)
else
    redis.call('DEL', stream)
end
redis.call('DEL', meta)
for i = 7, #ARGV, 2 do
    redis.call('HSET', meta, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', meta, 'restored', ARGV[5])
local last = later(redis.call('HGET', meta, 'last') or '0-0', newest(stream))
if ARGV[1] == 'merge' then
    last = later(last, given)
end
redis.call('HSET', meta, 'last', last)
if ARGV[4] == '1' or padded(last) < padded(given) then
    redis.call('HSET', meta, 'broken', later(last, given))
end
return 1
