-- Raise the epoch: give a log that has every event of the journal a new epoch, which all
-- processes accept as the newest, and name the server that it is on.
--
-- KEYS  meta
-- ARGV  1 epoch that the log is in, 2 new epoch, 3 lowest seq that the log may end at,
--       4 master_replid of the Redis that was compared with the journal
-- Answers  RAISED ·
--          CHANGED (the log is in another epoch, ends at a lower seq, or does not exist) ·
--          OTHER_SERVER (Redis restarted, or another Redis took its place)
-- Keeps  only the epoch and the server change.
local meta_key = unpack(KEYS)
local epoch, raised, least_seq, server = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local found, seq = unpack(redis.call('HMGET', meta_key, 'epoch', 'seq'))
if not tonumber(seq) or tonumber(seq) < least_seq then return {'CHANGED'} end
if string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') ~= server then return {'OTHER_SERVER'} end
if found ~= epoch and found ~= raised then return {'CHANGED'} end -- raised: a repeat of this call, whose reply was lost
redis.call('HSET', meta_key, 'epoch', raised, 'server', server)
return {'RAISED'}
