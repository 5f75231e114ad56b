#!lua flags=allow-oom
-- Forget a named client, unless it is connected.
--
-- KEYS  1 client hash   ARGV  1 prefix of the channel that a worker listens on while it lives
-- Reply 1 if it is forgotten, 0 if nothing was kept of it, -1 if it is connected
--
-- Runs on a full server too: it is what makes room again.

local claim = redis.call('HGET', KEYS[1], ':claim') or ''
local worker = string.match(claim, '^%d+ (%w+)%.%d+$')
if worker and redis.call('PUBSUB', 'NUMSUB', ARGV[1] .. worker)[2] > 0 then
    return -1
end
return redis.call('UNLINK', KEYS[1])
