#!lua
-- Open a session, for as long as its user is who signed in.
--
-- KEYS  1 session   2 the user's sessions   3 the spare ones   4 users   5 imported
-- ARGV  1 user id   2 the user's generation, '' for any   3 jti   4 now   5 when it expires   6 most sessions
--       7 most spare ones, '' if this is none   8 its mark among the imported, or ''
--       9... fields and values of the session
-- Reply 'opened', else nothing was done: 'no user', 'inactive', 'changed' is the user since the sign-in,
--       'before' it was imported already
--
-- Times are Unix milliseconds. The sessions are ordered by expiry, that is by when they were used last.

local session, sessions, spare, users, imported = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local jti, now, expires_at = ARGV[3], tonumber(ARGV[4]), ARGV[5]

local text = redis.call('HGET', users, ARGV[1])
local user = text and cjson.decode(text)
if not user then
    return 'no user'
elseif not user.is_active then
    return 'inactive'
elseif ARGV[2] ~= '' and user.generation ~= tonumber(ARGV[2]) then
    return 'changed'
elseif ARGV[8] ~= '' and redis.call('SADD', imported, ARGV[8]) == 0 then
    return 'before'
end
redis.call('ZREMRANGEBYSCORE', sessions, '-inf', now)
if ARGV[7] ~= '' then
    while redis.call('ZCARD', spare) >= tonumber(ARGV[7]) do
        redis.call('ZREM', sessions, redis.call('ZPOPMIN', spare)[1])
    end
    redis.call('ZADD', spare, now, jti)
end
while redis.call('ZCARD', sessions) >= tonumber(ARGV[6]) do
    redis.call('ZREM', spare, redis.call('ZPOPMIN', sessions)[1])
end
redis.call('HSET', session, unpack(ARGV, 9))
redis.call('PEXPIREAT', session, expires_at)
redis.call('ZADD', sessions, expires_at, jti)
local last = redis.call('ZRANGE', sessions, -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIREAT', sessions, last)
redis.call('PEXPIREAT', spare, last)
return 'opened'
