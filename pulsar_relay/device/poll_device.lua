#!lua
-- What has become of a device code; what was approved or denied is told once.
--
-- KEYS  1 device
-- ARGV  1 milliseconds between two polls
-- Reply {'unknown'}, {'expired'}, {'denied'}, {'slow_down'}, {'pending'}, or
--       {'approved', user id, the user's generation then, hint, '1' for a pair}
--
-- Times are Unix milliseconds by this server's clock. A poll that came too early does not count as one.

local device = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local kept = redis.call('HMGET', device, 'state', 'ends_at', 'polled_at')
local state, ends_at, polled_at = kept[1], tonumber(kept[2] or 0), tonumber(kept[3] or 0)
if not state then
    return {'unknown'}
elseif now >= ends_at then
    return {'expired'}
elseif state == 'denied' then
    redis.call('DEL', device)
    return {'denied'}
elseif now >= polled_at and now - polled_at < tonumber(ARGV[1]) then
    return {'slow_down'}
elseif state == 'pending' then
    redis.call('HSET', device, 'polled_at', string.format('%.0f', now))
    return {'pending'}
end
local approved = redis.call('HMGET', device, 'user', 'generation', 'hint', 'pair')
redis.call('DEL', device)
return {'approved', unpack(approved)}
