#!lua flags=allow-oom
-- Delete a user with all that hangs on it, unless somebody else has changed it meanwhile.
--
-- KEYS  1 users   2 passwords   3 names   4 name order   5 federated   6 the user's sessions   7 the spare
--       ones   8 API keys   9 their uses   10 ids of the user's keys   11 grants   12 the topics the user has
--       granted   13 changes
-- ARGV  1 user id   2 the user as JSON, as it was read   3 username   4 federated identity or ''   5 channel
--       6 token of the change
-- Reply 1, or 0 if it is not what was read: nothing was done

local users, passwords, names, name_order, federated = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local api_keys, uses, keys_of, grants, grants_of = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local sessions, spare, changes, id = KEYS[6], KEYS[7], KEYS[13], ARGV[1]

local function announce(kind, name)
    redis.call('XADD', changes, 'MAXLEN', '~', 10000, '*', 'kind', kind, 'name', name, 'token', ARGV[6])
end

if redis.call('HGET', users, id) ~= ARGV[2] then
    return 0
end
redis.call('HDEL', users, id)
redis.call('HDEL', passwords, id)
redis.call('HDEL', names, ARGV[3])
redis.call('ZREM', name_order, ARGV[3])
if ARGV[4] ~= '' then
    redis.call('HDEL', federated, ARGV[4])
end
announce('user', id)
for _, key_id in ipairs(redis.call('SMEMBERS', keys_of)) do
    redis.call('HDEL', api_keys, key_id)
    redis.call('HDEL', uses, key_id)
    announce('api-key', key_id)
end
for _, topic in ipairs(redis.call('SMEMBERS', grants_of)) do
    redis.call('HDEL', grants, id .. '/' .. topic)
    announce('grant', id .. '/' .. topic)
end
redis.call('DEL', sessions, spare, keys_of, grants_of)
redis.pcall('PUBLISH', ARGV[5], '')
return 1
