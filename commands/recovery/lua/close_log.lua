-- Close: set the pool's log head aside, so that every command is answered NOT_READY while
-- the keys are rewritten.
--
-- KEYS  meta, closed
-- ARGV  1 epoch that the log is expected to be in, 2 seq that it is expected to end at,
--       '' for any
-- Answers  CLOSED with the seq that the log ends at ·
--          CHANGED (the log is in another epoch, ends at another seq, or does not exist)
-- Keeps  no event is appended between the comparison with the journal and the closing.
local meta_key, closed_key = unpack(KEYS)
local epoch, seq = ARGV[1], ARGV[2]

local function ends_as_expected(key)
  local meta = redis.call('HMGET', key, 'epoch', 'seq')
  return meta[1] == epoch and meta[2] and (seq == '' or meta[2] == seq) and meta[2]
end

local closed_at
if redis.call('EXISTS', meta_key) == 1 then
  closed_at = ends_as_expected(meta_key)
  if closed_at then redis.call('RENAME', meta_key, closed_key) end
else
  closed_at = ends_as_expected(closed_key) -- a repeat of this call, whose reply was lost
end
if not closed_at then return {'CHANGED'} end
return {'CLOSED', closed_at}
