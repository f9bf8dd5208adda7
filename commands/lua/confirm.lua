-- Confirm: a held unit is sold. The available stock does not change; it fell when the hold was made.
--
-- KEYS  hold, due, meta, stream
-- ARGV  1-6 as in prelude.lua, 7 sku that the event was built for, 8 hold_id, 9 payment_ref, 10 how long the hold is
--       remembered from now on (ms)
-- Answers  CONFIRMED or REPLAYED · HOLD_CONFIRMED (with another payment_ref) · HOLD_CANCELLED · HOLD_EXPIRED ·
--          UNKNOWN_HOLD · HOLD_CHANGED (the event does not fit the hold: read it again) ·
--          STATE_INVALID with the key · NOT_READY · STALE
-- Keeps  a hold ends once, and never after its deadline by this clock, whether or not the saga has come by.
local hold_key, due_key, meta_key, stream_key = unpack(KEYS)
local sku, hold_id, payment_ref, keep_ms = ARGV[7], ARGV[8], ARGV[9], ARGV[10]

local log, refusal = open_log(meta_key, stream_key, sku)
if not log then return refusal end

local hold = redis.call('HMGET', hold_key, 'sku', 'state', 'expires_at', 'payment_ref', 'ended_seq')
local hold_sku, state, expires_at, paid_by, ended_seq = unpack(hold)
if not hold_sku then return answer(log, 'UNKNOWN_HOLD') end
if hold_sku ~= sku then return answer(log, 'HOLD_CHANGED') end
if not (state and tonumber(expires_at)) then return answer(log, 'STATE_INVALID', hold_key) end
if state == 'CONFIRMED' and paid_by == payment_ref then
  log.seq = tonumber(ended_seq)
  return answer(log, 'REPLAYED')
end
if state ~= 'ACTIVE' then return answer(log, 'HOLD_' .. state) end
if log.now_ms >= tonumber(expires_at) then return answer(log, 'HOLD_EXPIRED') end
redis.call('ZCARD', due_key) -- fails here, not after the append, should the key hold something else

append_command(log)
redis.call('HSET', hold_key, 'state', 'CONFIRMED', 'payment_ref', payment_ref, 'ended_seq', log.seq)
redis.call('PEXPIRE', hold_key, keep_ms)
redis.call('ZREM', due_key, hold_id)
redis.call('HSET', meta_key, 'seq', log.seq)
return answer(log, 'CONFIRMED')
