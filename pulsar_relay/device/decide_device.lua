#!lua
-- Decide about a device code: once, while it is pending.
--
-- KEYS  1 device   2 user code
-- ARGV  1 digest of the device code   2 'approved' or 'denied'   3 user id   4 the user's generation
-- Reply 1, or 0 if there is nothing to decide any more: nothing was done

local device, user_code = KEYS[1], KEYS[2]

-- The user code goes with the decision, and expires with the device code.
if redis.call('GET', user_code) ~= ARGV[1] or redis.call('HGET', device, 'state') ~= 'pending' then
    return 0
end
redis.call('DEL', user_code)
redis.call('HSET', device, 'state', ARGV[2], 'user', ARGV[3], 'generation', ARGV[4])
return 1
