#!lua
-- Keep a record under an owner: an API key, or a grant.
--
-- KEYS  1 the records   2 the owner's ones   3 users   4 changes
-- ARGV  1 field among the records   2 name among the owner's   3 the record as JSON   4 owner's user id
--       5 most of an owner   6 kind of the change   7 channel   8 token of the change
--       9 the record as it was read, '' if there was none, '*' for any
-- Reply 'done', else nothing was done: 'full', 'changed' by somebody else meanwhile, 'no user'

local records, owned, users, changes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

if redis.call('HEXISTS', users, ARGV[4]) == 0 then
    return 'no user'
elseif ARGV[9] ~= '*' and (redis.call('HGET', records, ARGV[1]) or '') ~= ARGV[9] then
    return 'changed'
elseif redis.call('SISMEMBER', owned, ARGV[2]) == 0 and redis.call('SCARD', owned) >= tonumber(ARGV[5]) then
    return 'full'
end
redis.call('HSET', records, ARGV[1], ARGV[3])
redis.call('SADD', owned, ARGV[2])
redis.call('XADD', changes, 'MAXLEN', '~', 10000, '*', 'kind', ARGV[6], 'name', ARGV[1], 'token', ARGV[8])
redis.pcall('PUBLISH', ARGV[7], '')
return 'done'
