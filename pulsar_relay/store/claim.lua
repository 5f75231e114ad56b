#!lua
-- Make one connection the holder of a client's name, and tell where the client stands.
--
-- KEYS  1 client hash
-- ARGV  1 milliseconds to keep it from now   2 the connection   3 '1' if it held the name before, else '0'
--       4 channel that hears of claims   5 client id   6 the claim it has read   then the fields to tell
-- Reply {generation of the claim, the fields' values}, or nil if another connection has claimed since. 0 if
-- the claim is not the one it has read, and nothing was done: what was long on its way, from a connection
-- that may be gone, does not depose who came meanwhile.
--
-- A generation is higher than all before it: it begins with the clock, so also after the hash was forgotten.

local claim = redis.call('HGET', KEYS[1], ':claim') or ''
local generation, holder = string.match(claim, '^(%d+) ?(.*)$')
if holder ~= ARGV[2] then
    if ARGV[3] == '1' and holder then
        return nil
    elseif ARGV[3] ~= '1' and claim ~= ARGV[6] then
        return 0
    end
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
    generation = string.format('%.0f', math.max(now, (tonumber(generation) or 0) + 1))
    redis.call('HSET', KEYS[1], ':claim', generation .. ' ' .. ARGV[2])
    -- Where the last holder let go nobody is to be told: those before it were.
    -- A hint only: who does not hear it is refused the next acknowledgement.
    if holder ~= '' then
        redis.pcall('PUBLISH', ARGV[4], generation .. ' ' .. ARGV[5])
    end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {generation, #ARGV > 6 and redis.call('HMGET', KEYS[1], unpack(ARGV, 7)) or {}}
