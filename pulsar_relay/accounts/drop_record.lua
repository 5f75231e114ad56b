#!lua flags=allow-oom
-- Drop a record that is kept under an owner: an API key, or a grant.
--
-- KEYS  1 the records   2 the owner's ones   3 changes   4 what else is kept by the same field
-- ARGV  1 field among the records   2 name among the owner's   3 kind of the change   4 channel
--       5 token of the change   6 the record as it was read, '*' for any
-- Reply 1, or 0 if the owner has none of this name, or -1 if it is not what was read: nothing was done

local records, owned, changes, beside = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

if redis.call('SISMEMBER', owned, ARGV[2]) == 0 then
    return 0
elseif ARGV[6] ~= '*' and redis.call('HGET', records, ARGV[1]) ~= ARGV[6] then
    return -1
end
redis.call('HDEL', records, ARGV[1])
redis.call('SREM', owned, ARGV[2])
redis.call('HDEL', beside, ARGV[1])
redis.call('XADD', changes, 'MAXLEN', '~', 10000, '*', 'kind', ARGV[3], 'name', ARGV[1], 'token', ARGV[5])
redis.pcall('PUBLISH', ARGV[4], '')
return 1
