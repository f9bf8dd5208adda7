-- Reopen: take a closed log up again, as it was. It is for a closing that came to nothing.
--
-- KEYS  meta, closed, next
-- ARGV  1 the epoch that was closed
-- Answers  REOPENED · GONE (there is nothing to take up, or its keys may have been touched since)
-- Keeps  a log whose keys are being written anew is not opened.
local meta_key, closed_key, next_key = unpack(KEYS)
local epoch = ARGV[1]

if redis.call('EXISTS', meta_key) == 1 then return {'REOPENED'} end
if redis.call('HGET', closed_key, 'epoch') ~= epoch or redis.call('EXISTS', next_key) == 1 then return {'GONE'} end
redis.call('RENAME', closed_key, meta_key)
return {'REOPENED'}
