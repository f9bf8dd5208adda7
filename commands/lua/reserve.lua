-- Reserve: take units out of the available stock and hold them for a shopper until a deadline.
--
-- KEYS  stock, hold, idem, due, meta, stream
-- ARGV  1-6 as in prelude.lua, 7 sku, 8 hold_id, 9 qty (units), 10 user_id, 11 ttl (ms), 12 fingerprint of the
--       request, 13 how long the key is remembered (ms)
-- Answers  CREATED or REPLAYED with hold_id, expires_at (ms) ·
--          IDEMPOTENCY_MISMATCH · UNKNOWN_SKU · SOLD_OUT with available · STATE_INVALID with the key ·
--          NOT_READY · STALE
-- Keeps  available + held + sold = received: the units leave the counter in the step that appends the event.
local stock_key, hold_key, idem_key, due_key, meta_key, stream_key = unpack(KEYS)
local sku, hold_id, user_id, fingerprint = ARGV[7], ARGV[8], ARGV[10], ARGV[12]
local qty, ttl_ms, idem_ttl_ms = tonumber(ARGV[9]), tonumber(ARGV[11]), tonumber(ARGV[13])

local log, refusal = open_log(meta_key, stream_key, sku)
if not log then return refusal end

local seen = redis.call('GET', idem_key)
if seen then
  local seen_fingerprint, first_id, seq, expires_at = string.match(seen, '^(%S+) (%S+) (%d+) (%d+)$')
  if seen_fingerprint ~= fingerprint then return answer(log, 'IDEMPOTENCY_MISMATCH') end
  log.seq = tonumber(seq)
  -- The same hold_id again is this very command, sent twice because its answer was lost: not a client's repeat.
  return answer(log, first_id == hold_id and 'CREATED' or 'REPLAYED', first_id, tonumber(expires_at))
end

local available = read_stock(log, stock_key)
if available == nil then return answer(log, 'UNKNOWN_SKU') end
if available == false then return answer(log, 'STATE_INVALID', stock_key) end
if available < qty then return refuse(log, available, 'SOLD_OUT', available) end
redis.call('ZCARD', due_key) -- fails here, not after the append, should the key hold something else

record_external_change(log, available)
append_command(log)
local expires_at = log.now_ms + ttl_ms
log.recorded = available - qty
redis.call('SET', stock_key, log.recorded)
redis.call('HSET', hold_key, 'sku', sku, 'qty', qty, 'user_id', user_id, 'state', 'ACTIVE', 'expires_at', expires_at)
redis.call('ZADD', due_key, expires_at, hold_id)
redis.call('SET', idem_key, fingerprint .. ' ' .. hold_id .. ' ' .. log.seq .. ' ' .. expires_at, 'PX', idem_ttl_ms)
save_log(log)
return answer(log, 'CREATED', hold_id, expires_at)
