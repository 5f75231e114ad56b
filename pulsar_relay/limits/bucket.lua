#!lua flags=allow-oom
-- Take tokens from a bucket that fills evenly and holds so many.
--
-- KEYS  1 the bucket: when it is full again, Unix microseconds by this server's clock; no key means full
-- ARGV  1 how many it holds   2 microseconds in which it fills from empty   3 how many are wanted
--       4 how few will do: fewer than that are not taken
-- Reply {taken, left, microseconds until as few as will do are there, microseconds until it is full}

local key = KEYS[1]
local size, period = tonumber(ARGV[1]), tonumber(ARGV[2])
local wanted, least = tonumber(ARGV[3]), tonumber(ARGV[4])
local each = period / size
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- A clock that was set back, or another rate than before, must not close the bucket for longer than it takes
-- to fill.
local full_at = tonumber(redis.call('GET', key) or '0') or 0
full_at = math.min(math.max(full_at, now), now + period)

local there = (now + period - full_at) / each
-- What is a rounding error short of a token is one.
local left = math.floor(there + 0.000001)
local taken = math.min(left, wanted)
local wait = 0
if taken < least then
    taken = 0
    wait = math.max(1, math.ceil((least - there) * each))
end
if taken > 0 then
    full_at = full_at + taken * each
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1)
end
return {taken, left - taken, wait, math.ceil(full_at - now)}
