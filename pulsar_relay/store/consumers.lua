#!lua flags=no-writes
-- Who of these named clients is kept, and connected.
--
-- KEYS  a client hash for each   ARGV  1 prefix of the channel that a worker listens on while it lives
-- Reply for each {1 if connected else 0, milliseconds until it is forgotten}, or 0 if nothing is kept of it

local found = {}
for i = 1, #KEYS do
    local remaining = redis.call('PTTL', KEYS[i])
    if remaining == -2 then
        found[i] = 0
    else
        local claim = redis.call('HGET', KEYS[i], ':claim') or ''
        local worker = string.match(claim, '^%d+ (%w+)%.%d+$')
        local connected = worker and redis.call('PUBSUB', 'NUMSUB', ARGV[1] .. worker)[2] or 0
        found[i] = {math.min(connected, 1), remaining}
    end
end
return found
