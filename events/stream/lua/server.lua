-- Server: say which Redis answers. On a cluster, INFO by itself goes to any node; a script
-- goes to the node that has its key.
--
-- KEYS  meta
-- ARGV  none
-- Answers  run_id, master_replid, version, and '1' if cluster mode is on;
--          '' for an id or a version that Redis does not report
-- Keeps  Redis stays as it is.
local meta_key = unpack(KEYS)

local server = redis.call('INFO', 'server')
local replication = redis.call('INFO', 'replication')
local cluster = redis.call('INFO', 'cluster')
return {
  server:match('run_id:(%x+)') or '',
  replication:match('master_replid:(%x+)') or '',
  server:match('redis_version:(%S+)') or '',
  cluster:match('cluster_enabled:(%d)') or '0',
}
