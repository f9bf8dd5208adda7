-- Confirm: turns a hold into an order. The available stock does not change: the units
-- left it when the hold was made.
--
-- KEYS  hold
-- ARGV  the fields of the event, then sku (as read from the hold when the event was
--       built), hold_id, payment_ref, keep_ms (ms, how long the hold is kept from now on, at least)
-- Answers  CONFIRMED
--          REPLAYED, if the hold was confirmed with the same payment_ref
--          HOLD_CONFIRMED, if it was confirmed with a different one
--          HOLD_CANCELLED
--          HOLD_EXPIRED, if its deadline has passed, even before the saga expired it
--          UNKNOWN_HOLD
--          HOLD_CHANGED, if the hold is of another sku: the caller reads it again
--          STATE_INVALID with the key
-- Keeps  A hold ends once. It is never confirmed after its deadline, by Redis's clock.
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
  keep_ended(hold_key, hold, keep_ms)
  due[hold_id] = false
  return answer('CONFIRMED')
end}
