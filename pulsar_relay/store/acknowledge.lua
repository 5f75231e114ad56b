#!lua
-- Move what is kept of a named client forward, never back: acknowledged cursors, marks of what it was given.
--
-- KEYS  1 client hash
-- ARGV  1 milliseconds to keep it from now   2 the connection that must hold the name, '' for none
--       3 the connection that lets go of the name, '' for none   then field and id, alternating
-- Reply the fields' values, or nil if another connection has claimed the name: then nothing was moved.

local function padded(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    if not ms or #ms > 20 or #n > 20 then
        return ''
    end
    return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #n) .. n
end

local claim = redis.call('HGET', KEYS[1], ':claim')
local generation, holder = string.match(claim or '', '^(%d+) ?(.*)$')
if ARGV[2] ~= '' and holder and holder ~= ARGV[2] then
    return nil
end
if holder and holder == ARGV[3] then
    redis.call('HSET', KEYS[1], ':claim', generation)
end
local values = {}
for i = 4, #ARGV, 2 do
    local stored = redis.call('HGET', KEYS[1], ARGV[i])
    -- What is no id was not written by us, and is no place to go on from.
    if not stored or padded(stored) < padded(ARGV[i + 1]) then
        stored = ARGV[i + 1]
        redis.call('HSET', KEYS[1], ARGV[i], stored)
    end
    values[#values + 1] = stored
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return values
