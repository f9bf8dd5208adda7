-- Raise the epoch: give a log that has every event of the journal a new epoch, which all
-- processes accept as the newest.
--
-- KEYS  meta
-- ARGV  1 epoch that the log is in, 2 new epoch, 3 lowest seq that the log may end at
-- Answers  RAISED ·
--          CHANGED (the log is in another epoch, ends at a lower seq, or does not exist)
-- Keeps  only the epoch changes.
local meta_key = unpack(KEYS)
local epoch, raised, least_seq = ARGV[1], ARGV[2], tonumber(ARGV[3])

local found, seq = unpack(redis.call('HMGET', meta_key, 'epoch', 'seq'))
if not tonumber(seq) or tonumber(seq) < least_seq then return {'CHANGED'} end
if found == raised then return {'RAISED'} end -- a repeat of this call, whose reply was lost
if found ~= epoch then return {'CHANGED'} end
redis.call('HSET', meta_key, 'epoch', raised)
return {'RAISED'}
