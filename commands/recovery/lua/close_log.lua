-- Close: put a pool's log aside, so that every command is answered NOT_READY while it is written anew.
--
-- KEYS  meta, closed
-- ARGV  1 the epoch, 2 the seq that the log is expected to end at, '' for wherever it ends
-- Answers  CLOSED with seq · CHANGED (the log is in another epoch, or ends elsewhere, or is gone)
-- Keeps  what was compared is what is closed: not one event comes in between.
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
  closed_at = ends_as_expected(closed_key) -- this very call, sent twice because its answer was lost
end
if not closed_at then return {'CHANGED'} end
return {'CLOSED', closed_at}
