#!lua flags=allow-oom
-- Who of these named clients is kept, and connected. Names of which nothing is kept leave the index.
--
-- KEYS  1 index of names, then a client hash for each
-- ARGV  1 prefix of the channel that a worker listens on while it lives, then the names
-- Reply for each {1 if connected else 0, milliseconds until it is forgotten}, or 0 if nothing is kept of it
--
-- Runs on a full server too: it only takes out.

local found = {}
for i = 1, #KEYS - 1 do
    local remaining = redis.call('PTTL', KEYS[i + 1])
    if remaining == -2 then
        redis.call('ZREM', KEYS[1], ARGV[i + 1])
        found[i] = 0
    else
        local claim = redis.call('HGET', KEYS[i + 1], ':claim') or ''
        local worker = string.match(claim, '^%d+ (%w+)%.%d+$')
        local connected = worker and redis.call('PUBSUB', 'NUMSUB', ARGV[1] .. worker)[2] or 0
        found[i] = {math.min(connected, 1), remaining}
    end
end
return found
