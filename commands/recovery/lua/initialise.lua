-- Initialise: begin a pool's log, once. Everything else refuses to work without it.
--
-- KEYS  meta
-- ARGV  1 epoch
-- Answers  INITIALISED or EXISTS
-- Keeps  a log that has begun is never begun again: its sequence would repeat.
local meta_key = unpack(KEYS)
local epoch = ARGV[1]

if redis.call('EXISTS', meta_key) == 1 then return {'EXISTS'} end
redis.call('HSET', meta_key, 'epoch', epoch, 'seq', 0)
return {'INITIALISED'}
