-- Cancel: held units go back to the available stock, because the shopper asks for it or because the deadline passed.
--
-- KEYS  stock, hold
-- ARGV  the event, then the sku that it was built for, hold_id, the state it ends in (CANCELLED by request, EXPIRED by
--       deadline), how long the hold is remembered from now on (ms)
-- Answers  CANCELLED, EXPIRED or REPLAYED · HOLD_CONFIRMED · HOLD_CANCELLED · HOLD_EXPIRED · NOT_DUE (EXPIRED was
--          asked for too early) · UNKNOWN_HOLD · HOLD_CHANGED (the event does not fit the hold: read it again) ·
--          STATE_INVALID with the key
-- Keeps  a hold ends once, so its units come back once. By request it ends only before its deadline, and by deadline
--        only after it: of the two, exactly one can happen.
rules.cancel = {keys = 2, decide = function(k, event_id, type, payload, metadata, sku, hold_id, ends_as, keep_ms)
  local stock_key, hold_key = KEYS[k], KEYS[k + 1]

  local hold = hold_at(hold_key)
  if not hold.sku then return answer('UNKNOWN_HOLD') end
  if hold.sku ~= sku then return answer('HOLD_CHANGED') end
  if hold.invalid then return answer('STATE_INVALID', hold_key) end
  if hold.state ~= 'ACTIVE' then
    due[hold_id] = false -- it ended; nothing is due any more
    if hold.state ~= ends_as then return answer('HOLD_' .. hold.state) end
    return {'REPLAYED', hold.ended_seq}
  end
  local is_due = log.now_ms >= hold.expires_at
  if ends_as == 'EXPIRED' and not is_due then
    redis.pcall('ZADD', due_key, hold.deadline, hold_id) -- may be all there is to write; the saga asks again
    return answer('NOT_DUE')
  end
  if ends_as == 'CANCELLED' and is_due then return answer('HOLD_EXPIRED') end

  local stock = stock_of(sku, stock_key)
  if stock.invalid then return answer('STATE_INVALID', stock_key) end
  if not stock.available then stock.available, stock.recorded = 0, 0 end

  local seq_text = append_stock_change(stock, hold.qty, event_id, type, payload, metadata)
  redis.call('HSET', hold_key, 'state', ends_as, 'ended_seq', seq_text)
  redis.call('PEXPIRE', hold_key, keep_ms)
  due[hold_id] = false
  return answer(ends_as)
end}
