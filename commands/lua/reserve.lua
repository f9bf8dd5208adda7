-- Reserve: takes units out of the available stock and holds them for a shopper until a
-- deadline.
--
-- KEYS  stock, hold, idem
-- ARGV  the fields of the event, then sku, hold_id, qty (units), user_id, ttl_ms (ms),
--       fingerprint of the request, idem_ttl_ms (ms, how long the key in idem is kept)
-- Answers  CREATED with hold_id, expires_at (ms)
--          REPLAYED with hold_id, expires_at (ms), for a repeated request
--          IDEMPOTENCY_MISMATCH, if the key belongs to a different request
--          UNKNOWN_SKU
--          SOLD_OUT with available (units)
--          STATE_INVALID with the key
-- Keeps  available + held + sold = received: the units leave the available stock in the
--        same step that appends the event.
rules.reserve = {keys = 3, decide = function(k, event_id, type, payload, metadata,
    sku, hold_id, qty, user_id, ttl_ms, fingerprint, idem_ttl_ms)
  local stock_key, hold_key, idem_key = KEYS[k], KEYS[k + 1], KEYS[k + 2]

  local seen = redis.call('GET', idem_key)
  if seen then
    local seen_fingerprint, first_id, seq, expires_at = string.match(seen, '^(%S+) (%S+) (%d+) (%d+)$')
    -- A key that was restored from the journal has two fingerprints, separated by a
    -- comma: the event does not say whether the request named its ttl or used the
    -- default.
    local fingerprints = ',' .. (seen_fingerprint or '') .. ','
    if not string.find(fingerprints, ',' .. fingerprint .. ',', 1, true) then return answer('IDEMPOTENCY_MISMATCH') end
    -- An equal hold_id is not a client's repeat: go-redis sent this call again after it
    -- lost the answer.
    return {first_id == hold_id and 'CREATED' or 'REPLAYED', tonumber(seq), first_id, tonumber(expires_at)}
  end

  local stock = stock_of(sku, stock_key)
  if stock.invalid then return answer('STATE_INVALID', stock_key) end
  if not stock.available then return answer('UNKNOWN_SKU') end
  if stock.available < tonumber(qty) then return refuse(stock, 'SOLD_OUT', stock.available) end

  local seq_text = append_stock_change(stock, -qty, event_id, type, payload, metadata)
  local expires_at = string.format('%d', log.now_ms + ttl_ms)
  redis.call('HSET', hold_key, 'sku', sku, 'qty', qty, 'user_id', user_id, 'state', 'ACTIVE', 'expires_at', expires_at,
    unpack(longer_memory(idem_ttl_ms)))
  redis.call('SET', idem_key, fingerprint .. ' ' .. hold_id .. ' ' .. seq_text .. ' ' .. expires_at, 'PX', idem_ttl_ms)
  due[hold_id] = expires_at
  return answer('CREATED', hold_id, log.now_ms + ttl_ms)
end}
