#!lua flags=allow-oom
-- Change a user, unless somebody else has meanwhile.
--
-- KEYS  1 users   2 passwords   3 the user's sessions   4 the spare ones   5 changes
-- ARGV  1 user id   2 the user as JSON, as it was read   3 as it is to be   4 password hash, '' to leave it
--       5 '1' to end all sessions   6 channel   7 token of the change
-- Reply 1, or 0 if it is not what was read: nothing was done

local users, passwords, sessions, spare, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]

if redis.call('HGET', users, id) ~= ARGV[2] then
    return 0
end
if ARGV[4] ~= '' then
    redis.call('HSET', passwords, id, ARGV[4])
end
if ARGV[5] == '1' then
    redis.call('DEL', sessions, spare)
end
if ARGV[3] ~= ARGV[2] then
    redis.call('HSET', users, id, ARGV[3])
    redis.call('XADD', changes, 'MAXLEN', '~', 10000, '*', 'kind', 'user', 'name', id, 'token', ARGV[7])
    redis.pcall('PUBLISH', ARGV[6], '')
end
return 1
