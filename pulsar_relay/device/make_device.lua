#!lua
-- Keep a device code, if nobody has its user code at the moment.
--
-- KEYS  1 device   2 user code
-- ARGV  1 digest of the device code   2 milliseconds it can be decided and redeemed   3 milliseconds it is
--       known   4... fields and values
-- Reply 1, or 0 if the user code is somebody's: nothing was done

local device, user_code = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if redis.call('EXISTS', user_code) == 1 then
    return 0
end
redis.call('SET', user_code, ARGV[1], 'PX', ARGV[2])
redis.call('HSET', device, 'state', 'pending', 'ends_at', string.format('%.0f', now + ARGV[2]))
redis.call('HSET', device, unpack(ARGV, 4))
redis.call('PEXPIRE', device, ARGV[3])
return 1
