-- Begin a restore: take the right to write the pool's keys. A restorer that had the right
-- before loses it.
--
-- KEYS  meta, next
-- ARGV  1 epoch of the log after the restore, which no other restorer was given,
--       2 seq that the log continues from,
--       3 'all' if the restorer removes and writes all keys, 'some' if it keeps some
-- Answers  BEGUN · OPEN (the pool has a log, so no key may be written) ·
--          SUPERSEDED (a restorer with a later epoch has the right) ·
--          CHANGED (the restorer keeps keys, and another one has begun to remove them)
-- Keeps  one restorer at a time writes keys, and only while no command can be decided.
local meta_key, next_key = unpack(KEYS)
local epoch, seq, which = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local meta = redis.call('HMGET', meta_key, 'epoch', 'seq')
if tonumber(meta[1]) and tonumber(meta[2]) then return {'OPEN'} end
local begun = tonumber(redis.call('HGET', next_key, 'epoch') or 0)
if begun and begun > epoch then return {'SUPERSEDED'} end
local repeated = begun == epoch -- a repeat of this call, whose reply was lost
if which == 'some' and redis.call('EXISTS', next_key) == 1 and not repeated then return {'CHANGED'} end
redis.call('DEL', meta_key, next_key) -- without epoch or seq it is no log head; commands refuse it, too
redis.call('HSET', next_key, 'epoch', epoch, 'seq', seq)
return {'BEGUN'}
