-- Raise the epoch: declare a log that is whole to be in a new life, so that every process accepts it as the newest.
--
-- KEYS  meta
-- ARGV  1 the epoch that it is in, 2 the new one
-- Answers  RAISED · CHANGED (it is in another, or is gone)
-- Keeps  nothing but the epoch changes.
local meta_key = unpack(KEYS)
local epoch, raised = ARGV[1], ARGV[2]

local found = redis.call('HGET', meta_key, 'epoch')
if found == raised then return {'RAISED'} end -- this very call, sent twice because its answer was lost
if found ~= epoch then return {'CHANGED'} end
redis.call('HSET', meta_key, 'epoch', raised)
return {'RAISED'}
