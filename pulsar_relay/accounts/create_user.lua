#!lua
-- Make a user, if the name and the identity are nobody's yet.
--
-- KEYS  1 users   2 passwords   3 names   4 name order   5 federated   6 imported   7 changes
-- ARGV  1 user id   2 the user as JSON   3 username   4 federated identity or ''   5 password hash or ''
--       6 '1' if it comes from another server   7 channel   8 token of the change
-- Reply 'made'; else nothing was done: 'name' or 'identity' is somebody's, 'before' it was imported already

local users, passwords, names, name_order = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local federated, imported, changes = KEYS[5], KEYS[6], KEYS[7]
local id, mark = ARGV[1], 'user:' .. ARGV[1]

if ARGV[6] == '1' and redis.call('SISMEMBER', imported, mark) == 1 then
    return 'before'
elseif redis.call('HEXISTS', names, ARGV[3]) == 1 or redis.call('HEXISTS', users, id) == 1 then
    return 'name'
elseif ARGV[4] ~= '' and redis.call('HEXISTS', federated, ARGV[4]) == 1 then
    return 'identity'
end
redis.call('HSET', users, id, ARGV[2])
redis.call('HSET', names, ARGV[3], id)
redis.call('ZADD', name_order, 0, ARGV[3])
if ARGV[4] ~= '' then
    redis.call('HSET', federated, ARGV[4], id)
end
if ARGV[5] ~= '' then
    redis.call('HSET', passwords, id, ARGV[5])
end
if ARGV[6] == '1' then
    redis.call('SADD', imported, mark)
end
redis.call('XADD', changes, 'MAXLEN', '~', 10000, '*', 'kind', 'user', 'name', id, 'token', ARGV[8])
redis.pcall('PUBLISH', ARGV[7], '')
return 'made'
