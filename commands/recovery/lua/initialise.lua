-- Initialise: create the log head of a new pool. No command is decided without one.
--
-- KEYS  meta
-- ARGV  1 epoch
-- Answers  INITIALISED · EXISTS (the pool has a log head, which stays as it is)
-- Keeps  a log is never begun a second time, because its seqs would repeat.
local meta_key = unpack(KEYS)
local epoch = ARGV[1]

if redis.call('EXISTS', meta_key) == 1 then return {'EXISTS'} end
local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('HSET', meta_key, 'epoch', epoch, 'seq', 0, 'server', server)
return {'INITIALISED'}
