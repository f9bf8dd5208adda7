-- Raise the epoch: declare a log that is whole to be in a new life, so that every process accepts it as the newest.
--
-- KEYS  meta
-- ARGV  1 the epoch that it is in, 2 the new one, 3 the seq that it has come to at the least
-- Answers  RAISED · CHANGED (it is in another epoch, or ends earlier, or is gone)
-- Keeps  nothing but the epoch changes.
local meta_key = unpack(KEYS)
local epoch, raised, least_seq = ARGV[1], ARGV[2], tonumber(ARGV[3])

local found, seq = unpack(redis.call('HMGET', meta_key, 'epoch', 'seq'))
if not tonumber(seq) or tonumber(seq) < least_seq then return {'CHANGED'} end
if found == raised then return {'RAISED'} end -- this very call, sent twice because its answer was lost
if found ~= epoch then return {'CHANGED'} end
redis.call('HSET', meta_key, 'epoch', raised)
return {'RAISED'}
