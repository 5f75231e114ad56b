#!lua flags=allow-oom
-- Whether somebody has to wait before the next login; or that a password was wrong.
--
-- KEYS  1 the back-off: `<wrong passwords> <until when to wait, Unix milliseconds>` by this server's clock
-- ARGV  1 'ask' or 'wrong'   2 how many wrong ones are free   3 the first wait   4 the longest, milliseconds
-- Reply milliseconds to wait, 0 for none

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local longest = tonumber(ARGV[4])

local count, waits_until = 0, 0
local known = redis.call('GET', key)
if known then
    local first, second = string.match(known, '^(%d+) (%d+)$')
    count, waits_until = tonumber(first) or 0, tonumber(second) or 0
end
-- A clock that was set back locks nobody out.
local wait = math.min(math.max(0, waits_until - now), longest)
if ARGV[1] == 'ask' then
    return wait
end
count = count + 1
if count >= tonumber(ARGV[2]) then
    local doublings = math.min(count - tonumber(ARGV[2]), 40)
    wait = math.min(longest, tonumber(ARGV[3]) * 2 ^ doublings)
end
local text = string.format('%d %.0f', count, now + wait)
redis.call('SET', key, text, 'PX', math.ceil(wait + 2 * longest))
return math.ceil(wait)
