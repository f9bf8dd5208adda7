-- Confirm: a held unit is sold. The available stock does not change; it fell when the hold was made.
--
-- KEYS  hold
-- ARGV  the event, then the sku that it was built for, hold_id, payment_ref, how long the hold is remembered from now
--       on (ms)
-- Answers  CONFIRMED or REPLAYED · HOLD_CONFIRMED (with another payment_ref) · HOLD_CANCELLED · HOLD_EXPIRED ·
--          UNKNOWN_HOLD · HOLD_CHANGED (the event does not fit the hold: read it again) ·
--          STATE_INVALID with the key
-- Keeps  a hold ends once, and never after its deadline by this clock, whether or not the saga has come by.
rules.confirm = {keys = 1, decide = function(k, event_id, type, payload, metadata, sku, hold_id, payment_ref, keep_ms)
  local hold_key = KEYS[k]

  local hold = redis.call('HMGET', hold_key, 'sku', 'state', 'expires_at', 'payment_ref', 'ended_seq')
  local hold_sku, state, expires_at, paid_by, ended_seq = unpack(hold)
  if not hold_sku then return answer('UNKNOWN_HOLD') end
  if hold_sku ~= sku then return answer('HOLD_CHANGED') end
  if not (state and tonumber(expires_at)) then return answer('STATE_INVALID', hold_key) end
  if state == 'CONFIRMED' and paid_by == payment_ref then return {'REPLAYED', tonumber(ended_seq)} end
  if state ~= 'ACTIVE' then return answer('HOLD_' .. state) end
  if log.now_ms >= tonumber(expires_at) then return answer('HOLD_EXPIRED') end

  local seq_text = append(event_id, type, payload, metadata)
  redis.call('HSET', hold_key, 'state', 'CONFIRMED', 'payment_ref', payment_ref, 'ended_seq', seq_text)
  redis.call('PEXPIRE', hold_key, keep_ms)
  due[hold_id] = false
  return answer('CONFIRMED')
end}
