-- Time: say what time it is on the server that has the pool. On a cluster, TIME by itself
-- goes to any node; a script goes to the node that has its key.
--
-- KEYS  meta
-- ARGV  none
-- Answers  seconds and microseconds, as TIME does
-- Keeps  Redis stays as it is.
local meta_key = unpack(KEYS)

return redis.call('TIME')
