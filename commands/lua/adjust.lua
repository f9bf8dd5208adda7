-- Adjust: the rule of AdjustStock. It adds units to the available stock of a SKU, or
-- takes some away. Adding units to an unknown SKU makes it known.
--
-- KEYS  stock, idem
-- ARGV  the fields of the event, then sku, delta (units, may be negative), fingerprint of
--       the request, idem_ttl_ms (ms, how long the idempotency key is kept)
-- Answers  ADJUSTED with available (units)
--          REPLAYED with available (units), for a repeated request
--          IDEMPOTENCY_MISMATCH, if the key belongs to a different request
--          UNKNOWN_SKU, if delta is negative
--          INSUFFICIENT_STOCK with available (units)
--          STOCK_LIMIT with available (units)
--          STATE_INVALID with the key
-- Keeps  The available stock is never below zero. Units on hold are not touched.
rules.adjust = {keys = 2, decide = function(k, event_id, type, payload, metadata, sku, delta, fingerprint, idem_ttl_ms)
  local stock_key, idem_key = KEYS[k], KEYS[k + 1]
  delta = tonumber(delta)

  local seen = redis.call('GET', idem_key)
  if seen then
    local seen_fingerprint, first_id, seq, available = string.match(seen, '^(%S+) (%S+) (%d+) (%d+)$')
    if seen_fingerprint ~= fingerprint then return answer('IDEMPOTENCY_MISMATCH') end
    -- An equal event_id is not a client's repeat: go-redis sent this call again after it
    -- lost the answer.
    return {first_id == event_id and 'ADJUSTED' or 'REPLAYED', tonumber(seq), tonumber(available)}
  end

  local stock = stock_of(sku, stock_key)
  if stock.invalid then return answer('STATE_INVALID', stock_key) end
  if not stock.available and delta < 0 then return answer('UNKNOWN_SKU') end
  local available = stock.available or 0
  if available + delta < 0 then return refuse(stock, 'INSUFFICIENT_STOCK', available) end
  if available + delta > STOCK_MAX then return refuse(stock, 'STOCK_LIMIT', available) end

  if not stock.available then stock.available, stock.recorded = 0, 0 end
  local seq_text = append_stock_change(stock, delta, event_id, type, payload, metadata)
  redis.call('SET', idem_key, fingerprint .. ' ' .. event_id .. ' ' .. seq_text .. ' ' .. stock.available, 'PX', idem_ttl_ms)
  return answer('ADJUSTED', stock.available)
end}
