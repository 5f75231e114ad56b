#!lua
-- Append a batch of publishes to one topic's stream, in order, in one atomic step, and announce it.
--
-- KEYS  1 stream   2 meta hash (epoch, last)   3 this worker's last batch   4... one key per publish with a key of its own
-- ARGV  1 max length   2 floor id   3 epoch to use if a new one is needed   4 feed channel   5 worker   6 most bytes to announce inline
--       7 milliseconds a publish with a key is recognised   8 number of this batch   9 milliseconds it is recognised
--       10 number of publishes, then for each:
--         index of its key among KEYS or 0, body digest, number of drafts, then for each draft: payload, metadata or '', expiry ms or ''
-- Reply {prev, epoch, outcome...}; an outcome is '!' (the key was used with another body), 'r' + ids (a repeat) or 'n' + ids (new),
--       ids joined by spaces. New ids follow prev directly, in the order of the reply.
--
-- An id is <ms>-<n>, n counting the topic's messages. Ids are given here, not by XADD '*': so they stay above the floor when the store
-- has lost its tail or its clock went back, and the distance of two ids tells how many messages lie between them.
-- Ids are compared as zero-padded text, since a number here is a double.

local function padded(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #n) .. n
end

local stream, meta, batch_key = KEYS[1], KEYS[2], KEYS[3]
local max_length, floor, new_epoch = ARGV[1], ARGV[2], ARGV[3]

-- A worker has one append of a topic under way at a time, so if this batch was appended before and only the reply was lost, it is the
-- last one recorded.
local recorded = redis.call('GET', batch_key)
if recorded then
    local space = string.find(recorded, ' ', 1, true)
    if string.sub(recorded, 1, space - 1) == ARGV[8] then
        return cmsgpack.unpack(string.sub(recorded, space + 1))
    end
end

local known = redis.call('HMGET', meta, 'epoch', 'last')
local epoch, last = known[1], known[2]
local is_meta_changed = false

if not last then
    -- A stream without our meta: none yet, or one that another server filled, whose ids we continue.
    local top = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
    last = top[1] and top[1][1] or '0-0'
end
if not epoch then
    epoch = new_epoch
end
if padded(last) < padded(floor) then
    -- This worker has seen ids the store no longer knows: history was lost, so what follows is another history.
    last, epoch = floor, new_epoch
end

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local last_ms, last_n = string.match(last, '^(%d+)-(%d+)$')
local ms, n = last_ms, tonumber(last_n)
if #now > #ms or (#now == #ms and now > ms) then
    ms = now
end

local prev = last
local reply = {prev, epoch}
local announced, announced_bytes, inline_limit = {}, 0, tonumber(ARGV[6])
local ids_added = 0

local function add(payload, metadata, expiry)
    n = n + 1
    local id = ms .. '-' .. string.format('%.0f', n)
    local entry = {'payload', payload, 'prev', last}
    if metadata ~= '' then
        entry[#entry + 1] = 'metadata'
        entry[#entry + 1] = metadata
    end
    if expiry ~= '' then
        entry[#entry + 1] = 'expires_at'
        entry[#entry + 1] = expiry
    end
    local added = redis.pcall('XADD', stream, 'MAXLEN', '~', max_length, id, unpack(entry))
    if type(added) == 'table' and added.err then
        -- Somebody wrote to the stream behind our back, with a higher id: continue above it, once.
        local top = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
        if not top[1] then
            return redis.error_reply(added.err)
        end
        local top_ms, top_n = string.match(top[1][1], '^(%d+)-(%d+)$')
        if padded(top[1][1]) >= padded(id) then
            ms = string.format('%.0f', tonumber(top_ms) + 1)
            n = math.max(n, tonumber(top_n) + 1)
            id = ms .. '-' .. string.format('%.0f', n)
        end
        redis.call('XADD', stream, 'MAXLEN', '~', max_length, id, unpack(entry))
    end
    if announced_bytes <= inline_limit then
        announced_bytes = announced_bytes + #payload + #metadata
        announced[#announced + 1] = {id, payload, metadata, expiry}
    end
    last = id
    ids_added = ids_added + 1
    return id
end

local at = 11
for _ = 1, tonumber(ARGV[10]) do
    local repeat_index, digest, count = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 2])
    at = at + 3
    local repeat_key = repeat_index > 0 and KEYS[repeat_index] or nil
    local earlier = repeat_key and redis.call('GET', repeat_key)
    if earlier then
        local space = string.find(earlier, ' ', 1, true)
        if string.sub(earlier, 1, space - 1) == digest then
            reply[#reply + 1] = 'r' .. string.sub(earlier, space + 1)
        else
            reply[#reply + 1] = '!'
        end
    else
        local ids = {}
        for draft = 1, count do
            local first = at + (draft - 1) * 3
            ids[draft] = add(ARGV[first], ARGV[first + 1], ARGV[first + 2])
        end
        local joined = table.concat(ids, ' ')
        if repeat_key then
            redis.call('SET', repeat_key, digest .. ' ' .. joined, 'PX', ARGV[7])
        end
        reply[#reply + 1] = 'n' .. joined
    end
    at = at + count * 3
end

if ids_added > 0 then
    redis.call('HSET', meta, 'epoch', epoch, 'last', last)
    if not known[1] then
        -- A deleted topic's meta is kept for a while only, to remember its last id; the topic lives again.
        redis.call('PERSIST', meta)
    end
    local news = {ARGV[5], prev, last, epoch}
    if announced_bytes <= inline_limit then
        news[5] = announced
    end
    redis.call('PUBLISH', ARGV[4], cmsgpack.pack(news))
end
redis.call('SET', batch_key, ARGV[8] .. ' ' .. cmsgpack.pack(reply), 'PX', ARGV[9])
return reply
