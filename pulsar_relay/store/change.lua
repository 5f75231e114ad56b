#!lua
-- Change what is said of a topic.
--
-- KEYS  1 stream   2 meta hash   ARGV  1 how many fields to forget   2... these, then field, value, ...
-- Reply: 1, or nil if there is no such topic

if redis.call('HEXISTS', KEYS[2], 'epoch') == 0 and redis.call('EXISTS', KEYS[1]) == 0 then
    return nil
end
local first_set = 2 + tonumber(ARGV[1])
if first_set > 2 then
    redis.call('HDEL', KEYS[2], unpack(ARGV, 2, first_set - 1))
end
if #ARGV >= first_set then
    redis.call('HSET', KEYS[2], unpack(ARGV, first_set))
    redis.call('PERSIST', KEYS[2])
end
return 1
