#!lua
-- Move a named client's acknowledged cursors forward; never back.
--
-- KEYS  1 offsets hash   ARGV  1 milliseconds to keep them from now, then topic and id, alternating

local function padded(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    if not ms or #ms > 20 or #n > 20 then
        return ''
    end
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #n) .. n
end

for i = 2, #ARGV, 2 do
    local stored = redis.call('HGET', KEYS[1], ARGV[i])
    -- What is no id was not written by us, and is no place to go on from.
    if not stored or padded(stored) < padded(ARGV[i + 1]) then
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.status_reply('OK')
