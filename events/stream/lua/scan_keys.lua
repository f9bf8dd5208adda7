-- Scan keys: one step of a SCAN on the node that has the pool's keys. On a cluster, SCAN
-- by itself goes to any node.
--
-- KEYS  meta
-- ARGV  1 cursor, 2 pattern, 3 how many keys to visit
-- Answers  the next cursor, and a list of keys
-- Keeps  Redis stays as it is.
local meta_key = unpack(KEYS)
local cursor, pattern, count = unpack(ARGV)

return redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', count)
