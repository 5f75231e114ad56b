#!lua
-- Append a batch of publishes to one topic's stream, in order, in one atomic step, and announce it.
--
-- KEYS  1 stream   2 meta hash   3 this worker's last batch   4... one key per publish with a key of its own
-- ARGV  1 most messages kept, unless the topic has its own   2 floor id   3 epoch to use if a new one is
--       needed   4 feed channel   5 worker   6 most bytes to announce inline
--       7 milliseconds a publish with a key is recognised
--       8 number of this batch, rising   9 milliseconds a batch is recognised
--       10 the command that announces it, PUBLISH or, in a cluster, SPUBLISH
--       11... the publishes. The usual one, a draft without metadata, time to live or key: '', payload.
--         Any other: '<index of its key among KEYS, or 0> <drafts> <1 or 3> <digest>', then for each draft
--         its payload, and if 3, its metadata or '' and when it expires in Unix milliseconds or ''
-- Reply {prev, epoch, ms, n} if all publishes were new: the drafts have the ids <ms>-<n>, <ms>-<n+1>, ... and
--       follow prev directly (in the stream, the first entry of a new history names none: 0-0). Else followed
--       by an outcome for each publish: '' new, '!' the key was used with another body, or '<first id>
--       <drafts>' of the earlier attempt.
-- Errors of its own: STALE this worker has appended a later batch; DAMAGED what the keys hold is not ours.
--
-- An id is <ms>-<n>, n counting the topic's messages. Ids are given here, not by XADD '*': so they stay above
-- the floor when the store has lost its tail or its clock went back, and the distance of two ids tells how
-- many messages lie between them. Ids are compared as zero-padded text, since a number here is a double.
--
-- Valkey does not roll back. So all that can fail comes before the first write: nothing refused was stored.

local stream, meta, batch_key = KEYS[1], KEYS[2], KEYS[3]
local floor, new_epoch, batch_number = ARGV[2], ARGV[3], ARGV[8]
local FIRST_PUBLISH = 11
-- As in trim.lua.
local TRIMMED_AT_ONCE, EXACT_UP_TO = 10000, 1000

local function parts(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    -- Beyond 15 digits a millisecond is no double any more; a clock gets there in thirty thousand years.
    if not ms or #ms > 15 or #n > 20 then
        error({err = 'DAMAGED last id'})
    end
    return ms, n
end

local function later(one, other)
    return (#one > #other or (#one == #other and one > other)) and one or other
end

local function after(ms)
    return string.format('%.0f', tonumber(ms) + 1)
end

local function padded(ms, n)
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #n) .. n
end

-- A worker numbers its batches, and has one append of a topic under way at a time. If this one was appended
-- before and only the reply was lost, it is the last one recorded. An older one comes from a connection that
-- was given up: its worker went on without it.
local recorded = redis.call('GET', batch_key)
if recorded then
    local space = string.find(recorded, ' ', 1, true)
    local number = tonumber(string.sub(recorded, 1, space - 1))
    if number == tonumber(batch_number) then
        -- A write, so that the answer waits for what it tells of: under `appendfsync always` for the disk
        -- (the server may have died between the write of the batch and its sync), and for replicas, which
        -- confirm what this connection wrote, and only that.
        redis.call('PEXPIRE', batch_key, ARGV[9])
        return cmsgpack.unpack(string.sub(recorded, space + 1))
    elseif number > tonumber(batch_number) then
        error({err = 'STALE a later batch was appended'})
    end
end

local known = redis.call('HMGET', meta, 'epoch', 'last', 'largest', 'max_messages', 'broken')
local epoch, last, largest = known[1] or new_epoch, known[2] or '0-0', tonumber(known[3])
local last_ms, last_n = parts(last)

-- Whoever wrote to the stream behind our back (another server, a hand) made history too: it is continued.
if redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1] then
    last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1][1]
    last_ms, last_n = parts(last)
    largest = nil
elseif not largest and redis.call('EXISTS', stream) == 0 then
    largest = 0
end

local is_new_history = known[5]
local floor_ms, floor_n
if known[5] or floor ~= last then
    floor_ms, floor_n = parts(floor)
end
if known[5] then
    -- The topic was restored from a backup, and what came behind that may be lost: the same.
    for _, id in ipairs({known[5], last}) do
        local id_ms, id_n = parts(id)
        if padded(floor_ms, floor_n) < padded(id_ms, id_n) then
            floor_ms, floor_n = id_ms, id_n
        end
    end
end
if not is_new_history and floor ~= last then
    is_new_history = padded(last_ms, last_n) < padded(floor_ms, floor_n)
end
if is_new_history then
    -- This worker has seen ids the store no longer knows: history was lost, what follows is another one. Its
    -- first entry follows none. Were the floor named, whoever has just that message would seem to go on
    -- where he was; were it the last that is left, those before the loss would.
    last, last_ms, last_n, epoch = '0-0', after(floor_ms), floor_n, new_epoch
end

-- Publishes that are no plain draft, by where they begin; and what is remembered of their keys.
local headed, remembered = {}, {}
local at, size = FIRST_PUBLISH, #ARGV
while at <= size do
    local header = ARGV[at]
    if header == '' then
        at = at + 2
    else
        local index, count, width, digest = string.match(header, '^(%d+) (%d+) (%d) (.*)$')
        local key = KEYS[tonumber(index)]
        if key and remembered[key] == nil then
            remembered[key] = redis.call('GET', key)
        end
        headed[at] = {key, tonumber(count), tonumber(width), digest}
        at = at + 1 + count * width
    end
end

local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
local ms, n = later(now, last_ms), tonumber(last_n)
if #last_n > 13 then
    -- Not a number we gave: counting begins anew while numbers are still exact, in the next millisecond.
    ms, n = later(now, after(last_ms)), 0
end

local prefix, first_n = ms .. '-', nil
-- In memory a new history stands behind an id between the floor and its first message, which nobody has.
local prev = is_new_history and prefix .. last_n or last
-- What is announced inline, as long as it is small: the shape of each draft, and the texts.
local shapes, texts, announced_bytes, inline_limit = {}, {}, 0, tonumber(ARGV[6])
local call = redis.call

local function xadd(do_call, id, payload, metadata, expiry)
    if metadata == '' and expiry == '' then
        return do_call('XADD', stream, id, 'payload', payload, 'prev', last)
    elseif expiry == '' then
        return do_call('XADD', stream, id, 'payload', payload, 'prev', last, 'metadata', metadata)
    elseif metadata == '' then
        return do_call('XADD', stream, id, 'payload', payload, 'prev', last, 'expires_at', expiry)
    end
    return do_call(
        'XADD', stream, id, 'payload', payload, 'prev', last, 'metadata', metadata, 'expires_at', expiry
    )
end

-- The first entry alone can be refused: when the stream remembers a higher id that it does not hold any more.
local function add_first(payload, metadata, expiry)
    local added = xadd(redis.pcall, prefix .. n, payload, metadata, expiry)
    if type(added) == 'table' and added.err then
        local info = call('XINFO', 'STREAM', stream)
        for i = 1, #info, 2 do
            if info[i] == 'last-generated-id' then
                ms = later(ms, after(parts(info[i + 1])))
            end
        end
        prefix = ms .. '-'
        xadd(call, prefix .. n, payload, metadata, expiry)
    end
    first_n = n
end

local function add(payload, metadata, expiry)
    n = n + 1
    local id = prefix .. n
    if not first_n then
        add_first(payload, metadata, expiry)
        id = prefix .. n
    elseif metadata == '' and expiry == '' then
        call('XADD', stream, id, 'payload', payload, 'prev', last)
    else
        xadd(call, id, payload, metadata, expiry)
    end
    last = id
    local bytes = #payload + #metadata
    if largest and bytes > largest then
        largest = bytes
    end
    announced_bytes = announced_bytes + bytes
    if announced_bytes <= inline_limit then
        local place = #shapes + 1
        if bytes == #payload and expiry == '' then
            shapes[place], texts[place] = #payload, payload
        else
            shapes[place] = #payload .. '.' .. #metadata .. '.' .. expiry
            texts[place] = payload .. metadata
        end
    end
end

local function announcement()
    local news = ARGV[5] .. ' ' .. prev .. ' ' .. last .. ' ' .. epoch
    if announced_bytes > inline_limit then
        return news .. '\n'
    end
    return news .. ' ' .. table.concat(shapes, ' ') .. '\n' .. table.concat(texts)
end

local outcomes, are_all_new = {}, true
at = FIRST_PUBLISH
while at <= size do
    local publish = headed[at]
    local outcome = ''
    if not publish then
        add(ARGV[at + 1], '', '')
        at = at + 2
    else
        local key, count, width, digest = publish[1], publish[2], publish[3], publish[4]
        local earlier = key and remembered[key]
        if earlier then
            local known_digest, ids = string.match(earlier, '^(.*) (%S+ %d+)$')
            outcome = known_digest == digest and ids or '!'
            are_all_new = false
        else
            for first = at + 1, at + count * width, width do
                if width == 3 then
                    add(ARGV[first], ARGV[first + 1], ARGV[first + 2])
                else
                    add(ARGV[first], '', '')
                end
            end
            if key then
                remembered[key] = digest .. ' ' .. ms .. '-' .. (n - count + 1) .. ' ' .. count
                redis.call('SET', key, remembered[key], 'PX', ARGV[7])
            end
        end
        at = at + 1 + count * width
    end
    outcomes[#outcomes + 1] = outcome
end

-- Whole blocks only, which is quicker, where some messages more are not felt, and once for each hundred
-- messages; and not all of what is far too much at once.
local function trim(most, added)
    if most > EXACT_UP_TO then
        if n % 100 < added then
            call('XTRIM', stream, 'MAXLEN', '~', most)
        end
    else
        local excess = call('XLEN', stream) - most
        if excess > 0 then
            call('XTRIM', stream, 'MAXLEN', excess > TRIMMED_AT_ONCE and '~' or '=', most)
        end
    end
end

local reply = {prev, epoch, ms, tostring(first_n or 0)}
if not are_all_new then
    for i = 1, #outcomes do
        reply[4 + i] = outcomes[i]
    end
end
if first_n then
    trim(tonumber(known[4] or ARGV[1]), n - first_n + 1)
    if largest and largest ~= tonumber(known[3]) then
        redis.call('HSET', meta, 'epoch', epoch, 'last', last, 'largest', largest)
    else
        redis.call('HSET', meta, 'epoch', epoch, 'last', last)
        if known[3] and not largest then
            redis.call('HDEL', meta, 'largest')
        end
    end
    if known[5] then
        redis.call('HDEL', meta, 'broken')
    end
    if not known[1] then
        -- A deleted topic's meta expires, having remembered its last id for a while; the topic lives again.
        redis.call('PERSIST', meta)
        redis.call('HSETNX', meta, 'created', now)
    end
    -- Only a hint: that a user may not use the channel must not turn a stored batch into a refused one.
    redis.pcall(ARGV[10], ARGV[4], announcement())
end
-- Also where all was known already: it is a write, for the same reason as above.
redis.call('SET', batch_key, batch_number .. ' ' .. cmsgpack.pack(reply), 'PX', ARGV[9])
return reply
