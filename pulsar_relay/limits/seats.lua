#!lua flags=allow-oom
-- How many seats a worker has for somebody, of those that all workers share.
--
-- KEYS  1 the seats: worker -> `<seats> <until when it has them, Unix milliseconds>` by this server's clock
-- ARGV  1 the worker   2 how many it wants   3 how many it has given away, which it keeps in any case
--       4 how many there are   5 how long it has them, milliseconds
-- Reply how many the worker has now

local key = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = tonumber(ARGV[5])

local others = 0
local known = redis.call('HGETALL', key)
for i = 1, #known, 2 do
    local seats, ends = string.match(known[i + 1], '^(%d+) (%d+)$')
    seats, ends = tonumber(seats) or 0, tonumber(ends) or 0
    if known[i] == ARGV[1] then
        -- Told anew below.
    elseif ends <= now or ends > now + lease * 2 then
        -- The worker is gone, or the clock was set back.
        redis.call('HDEL', key, known[i])
    else
        others = others + seats
    end
end
local seats = math.max(tonumber(ARGV[3]), math.min(tonumber(ARGV[2]), tonumber(ARGV[4]) - others))
if seats <= 0 then
    redis.call('HDEL', key, ARGV[1])
    return 0
end
redis.call('HSET', key, ARGV[1], string.format('%d %.0f', seats, now + lease))
redis.call('PEXPIRE', key, lease)
return seats
