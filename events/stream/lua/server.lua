-- Server: say which Redis answers, and its time. On a cluster, TIME and INFO by themselves
-- go to any node; a script goes to the node that has its key.
--
-- KEYS  meta
-- ARGV  none
-- Answers  run_id, master_replid, version, '1' if cluster mode is on, and the clock in ms;
--          '' for an id or a version that Redis does not report
-- Keeps  Redis stays as it is.
local meta_key = unpack(KEYS)

local server = redis.call('INFO', 'server')
local replication = redis.call('INFO', 'replication')
local cluster = redis.call('INFO', 'cluster')
local time = redis.call('TIME')
return {
  server:match('run_id:(%x+)') or '',
  replication:match('master_replid:(%x+)') or '',
  server:match('redis_version:(%S+)') or '',
  cluster:match('cluster_enabled:(%d)') or '0',
  string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
}
