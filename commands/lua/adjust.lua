-- AdjustStock: units are added to, or taken from, the available stock. Adding to an unknown sku makes it known.
--
-- KEYS  stock, idem
-- ARGV  the event, then sku, delta (units, may be negative), fingerprint of the request, how long the key is
--       remembered (ms)
-- Answers  ADJUSTED or REPLAYED with available (units) · IDEMPOTENCY_MISMATCH · UNKNOWN_SKU ·
--          INSUFFICIENT_STOCK with available · STOCK_LIMIT with available · STATE_INVALID with the key
-- Keeps  the counter is never below zero; units on hold are out of its reach.
rules.adjust = {keys = 2, decide = function(k, event_id, type, payload, metadata, sku, delta, fingerprint, idem_ttl_ms)
  local stock_key, idem_key = KEYS[k], KEYS[k + 1]
  delta = tonumber(delta)

  local seen = redis.call('GET', idem_key)
  if seen then
    local seen_fingerprint, first_id, seq, available = string.match(seen, '^(%S+) (%S+) (%d+) (%d+)$')
    if seen_fingerprint ~= fingerprint then return answer('IDEMPOTENCY_MISMATCH') end
    -- The same event_id again is this very command, sent twice because its answer was lost: not a client's repeat.
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
