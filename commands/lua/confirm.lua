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

  local hold = hold_at(hold_key)
  if not hold.sku then return answer('UNKNOWN_HOLD') end
  if hold.sku ~= sku then return answer('HOLD_CHANGED') end
  if hold.invalid then return answer('STATE_INVALID', hold_key) end
  if hold.state == 'CONFIRMED' and hold.payment_ref == payment_ref then return {'REPLAYED', hold.ended_seq} end
  if hold.state ~= 'ACTIVE' then return answer('HOLD_' .. hold.state) end
  if log.now_ms >= hold.expires_at then return answer('HOLD_EXPIRED') end

  local seq_text = append(event_id, type, payload, metadata)
  redis.call('HSET', hold_key, 'state', 'CONFIRMED', 'payment_ref', payment_ref, 'ended_seq', seq_text)
  redis.call('PEXPIRE', hold_key, keep_ms)
  due[hold_id] = false
  return answer('CONFIRMED')
end}
