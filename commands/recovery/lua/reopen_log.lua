-- Reopen: put the closed log head back as it was. A restorer that fails before it changes a
-- key does this.
--
-- KEYS  meta, closed, next
-- ARGV  1 epoch of the log that was closed
-- Answers  REOPENED (or the pool has a log head already) ·
--          GONE (no log of this epoch is closed, or a restore has begun to change its keys)
-- Keeps  no log is opened while its keys are rewritten.
local meta_key, closed_key, next_key = unpack(KEYS)
local epoch = ARGV[1]

if redis.call('EXISTS', meta_key) == 1 then return {'REOPENED'} end
if redis.call('HGET', closed_key, 'epoch') ~= epoch or redis.call('EXISTS', next_key) == 1 then return {'GONE'} end
redis.call('RENAME', closed_key, meta_key)
return {'REOPENED'}
