#!lua flags=no-writes
-- What has changed since a worker has looked last, as it is now.
--
-- KEYS  1 changes   2 users   3 denied   4 API keys   5 grants
-- ARGV  1 the last change it knows, '0-0' if there was none yet   2 that one's token   3 most to tell
-- Reply {last change told, its token, how many, then of each kind, name and value, nil if it is gone}; or nil
--       if what lies between cannot be told, and all is to be read anew
--
-- The token is random: a store that has lost its end gives the same ids again, for other changes.

local changes, users, denied, api_keys, grants = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local known, token, first = ARGV[1], ARGV[2], '-'

if known == '0-0' then
    -- What was trimmed leaves ten thousand behind it.
    if redis.call('XLEN', changes) >= 10000 then
        return nil
    end
else
    local entry = redis.call('XRANGE', changes, known, known)[1]
    if not entry or entry[2][6] ~= token then
        return nil
    end
    first = '(' .. known
end
local told, seen = {}, {}
local entries = redis.call('XRANGE', changes, first, '+', 'COUNT', ARGV[3])
for _, entry in ipairs(entries) do
    local kind, name = entry[2][2], entry[2][4]
    known, token = entry[1], entry[2][6]
    if not seen[kind .. ' ' .. name] then
        seen[kind .. ' ' .. name] = true
        local value
        if kind == 'denied' then
            value = redis.call('ZSCORE', denied, name)
        elseif kind == 'user' then
            value = redis.call('HGET', users, name)
        elseif kind == 'api-key' then
            value = redis.call('HGET', api_keys, name)
        elseif kind == 'grant' then
            value = redis.call('HGET', grants, name)
        end
        told[#told + 1] = kind
        told[#told + 1] = name
        told[#told + 1] = value
    end
end
return {known, token, #entries, told}
