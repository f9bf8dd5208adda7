-- Cancel: ends a hold and returns its units to the available stock, because the shopper
-- cancels it or because its deadline passed.
--
-- KEYS  stock, hold
-- ARGV  the fields of the event, then sku (as read from the hold when the event was
--       built), hold_id, ends_as (CANCELLED for a shopper's request, EXPIRED for the
--       saga's), keep_ms (ms, how long the hold is kept from now on, at least)
-- Answers  CANCELLED or EXPIRED, as ends_as says
--          REPLAYED, if the hold already ended in the same way
--          HOLD_CONFIRMED, HOLD_CANCELLED or HOLD_EXPIRED, if it ended in another way
--          HOLD_EXPIRED also if a shopper cancels after the deadline
--          NOT_DUE, if the saga expires a hold before its deadline
--          UNKNOWN_HOLD
--          HOLD_CHANGED, if the hold is of another sku: the caller reads it again
--          STATE_INVALID with the key
-- Keeps  A hold ends once, so its units return once. A shopper cancels it only before the
--        deadline and the saga expires it only after, so never both.
rules.cancel = {keys = 2, decide = function(k, event_id, type, payload, metadata, sku, hold_id, ends_as, keep_ms)
  local stock_key, hold_key = KEYS[k], KEYS[k + 1]

  local hold = hold_at(hold_key)
  if not hold.sku then return answer('UNKNOWN_HOLD') end
  if hold.sku ~= sku then return answer('HOLD_CHANGED') end
  if hold.invalid then return answer('STATE_INVALID', hold_key) end
  if hold.state ~= 'ACTIVE' then
    due[hold_id] = false -- an ended hold must not be in the due set
    if hold.state ~= ends_as then return answer('HOLD_' .. hold.state) end
    return {'REPLAYED', hold.ended_seq}
  end
  local is_due = log.now_ms >= hold.expires_at
  if ends_as == 'EXPIRED' and not is_due then
    -- Puts the right deadline into the due set. Redis may refuse this, as it may be the
    -- call's first write; then the saga asks again.
    redis.pcall('ZADD', due_key, hold.deadline, hold_id)
    return answer('NOT_DUE')
  end
  if ends_as == 'CANCELLED' and is_due then return answer('HOLD_EXPIRED') end

  local stock = stock_of(sku, stock_key)
  if stock.invalid then return answer('STATE_INVALID', stock_key) end
  if not stock.available then stock.available, stock.recorded = 0, 0 end

  local seq_text = append_stock_change(stock, hold.qty, event_id, type, payload, metadata)
  redis.call('HSET', hold_key, 'state', ends_as, 'ended_seq', seq_text)
  keep_ended(hold_key, hold, keep_ms)
  due[hold_id] = false
  return answer(ends_as)
end}
