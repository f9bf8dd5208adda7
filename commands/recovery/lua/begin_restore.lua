-- Begin to restore: take the right to write a pool's keys anew. Whoever had it before loses it.
--
-- KEYS  meta, next
-- ARGV  1 the epoch of the log's next life, which nobody else was given, 2 the seq that it goes on from
-- Answers  BEGUN · OPEN (there is a log, so nothing may be written) · SUPERSEDED (a later life has begun)
-- Keeps  keys are written by one restorer at a time, and only while no command can be decided.
local meta_key, next_key = unpack(KEYS)
local epoch, seq = tonumber(ARGV[1]), ARGV[2]

local meta = redis.call('HMGET', meta_key, 'epoch', 'seq')
if tonumber(meta[1]) and tonumber(meta[2]) then return {'OPEN'} end
local begun = tonumber(redis.call('HGET', next_key, 'epoch') or 0)
if begun and begun > epoch then return {'SUPERSEDED'} end
redis.call('DEL', meta_key, next_key) -- a meta without epoch or seq is no log: the commands refuse it too
redis.call('HSET', next_key, 'epoch', epoch, 'seq', seq)
return {'BEGUN'}
