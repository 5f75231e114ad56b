#!lua flags=allow-oom
-- Deny an access token until it expires.
--
-- KEYS  1 denied   2 changes
-- ARGV  1 jti   2 when it expires, Unix seconds   3 what expired before this is forgotten   4 channel
--       5 token of the change
-- Reply 1

local denied, changes = KEYS[1], KEYS[2]

redis.call('ZADD', denied, ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', denied, '-inf', '(' .. ARGV[3])
redis.call('XADD', changes, 'MAXLEN', '~', 10000, '*', 'kind', 'denied', 'name', ARGV[1], 'token', ARGV[5])
redis.pcall('PUBLISH', ARGV[4], '')
return 1
