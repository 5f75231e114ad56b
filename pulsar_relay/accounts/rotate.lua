#!lua
-- Use a refresh token: what it says of itself is compared with what is kept, and its successor made, in one
-- step. So of any number that come with the same token one is the first, and an end of the session ends all.
--
-- KEYS  1 session   2 the user's sessions   3 the spare ones
-- ARGV  1 jti   2 digest of what is shown   3 digest of its successor   4 number of the session as read
--       5 number of the successor   6 now   7 when the successor expires   8 milliseconds of grace
--       9 '' if nobody can tell whether what is shown was ever good; 'older' if it was, before the current
--       one; 'ahead' if it was made after that: the store has lost its end
-- Reply {what, number, digest of the current}: 'rotated' it was the current one; 'again' the one before,
--       within the grace; 'ended' an older one: the session is over; else nothing was done:
--       'unknown', 'wrong', or 'changed' is the number

local session, sessions, spare = KEYS[1], KEYS[2], KEYS[3]
local jti, shown, now = ARGV[1], ARGV[2], tonumber(ARGV[6])

local expires_at = tonumber(redis.call('ZSCORE', sessions, jti) or 0)
local kept = redis.call('HMGET', session, 'number', 'digest', 'before', 'rotated_at')
local number, current, before, rotated_at = kept[1], kept[2], kept[3], tonumber(kept[4] or 0)

if expires_at <= now or not number then
    return {'unknown'}
elseif number ~= ARGV[4] then
    return {'changed'}
elseif shown == current or ARGV[9] == 'ahead' then
    redis.call('HSET', session, 'number', ARGV[5], 'digest', ARGV[3], 'before', shown)
    redis.call('HSET', session, 'rotated_at', ARGV[6], 'used_at', ARGV[6])
    redis.call('PEXPIREAT', session, ARGV[7])
    redis.call('ZADD', sessions, ARGV[7], jti)
    redis.call('ZREM', spare, jti)
    redis.call('PEXPIREAT', sessions, redis.call('ZRANGE', sessions, -1, -1, 'WITHSCORES')[2])
    return {'rotated', ARGV[5], ARGV[3]}
elseif shown == before and now - rotated_at < tonumber(ARGV[8]) then
    return {'again', number, current}
elseif shown == before or ARGV[9] == 'older' then
    redis.call('ZREM', sessions, jti)
    redis.call('ZREM', spare, jti)
    return {'ended'}
end
return {'wrong'}
