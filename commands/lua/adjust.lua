-- AdjustStock: units are added to, or taken from, the available stock. Adding to an unknown sku makes it known.
--
-- KEYS  stock, idem, meta, stream
-- ARGV  1-6 as in prelude.lua, 7 sku, 8 delta (units, may be negative), 9 fingerprint of the request, 10 how long the
--       key is remembered (ms)
-- Answers  ADJUSTED or REPLAYED with available (units) · IDEMPOTENCY_MISMATCH · UNKNOWN_SKU ·
--          INSUFFICIENT_STOCK with available · STOCK_LIMIT with available · STATE_INVALID with the key ·
--          NOT_READY · STALE
-- Keeps  the counter is never below zero; units on hold are out of its reach.
local stock_key, idem_key, meta_key, stream_key = unpack(KEYS)
local sku, delta, fingerprint, idem_ttl_ms = ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]

local log, refusal = open_log(meta_key, stream_key, sku)
if not log then return refusal end

local seen = redis.call('GET', idem_key)
if seen then
  local seen_fingerprint, event_id, seq, available = string.match(seen, '^(%S+) (%S+) (%d+) (%d+)$')
  if seen_fingerprint ~= fingerprint then return answer(log, 'IDEMPOTENCY_MISMATCH') end
  log.seq = tonumber(seq)
  -- The same event_id again is this very command, sent twice because its answer was lost: not a client's repeat.
  return answer(log, event_id == ARGV[1] and 'ADJUSTED' or 'REPLAYED', tonumber(available))
end

local available = read_stock(log, stock_key)
if available == false then return answer(log, 'STATE_INVALID', stock_key) end
if available == nil and delta < 0 then return answer(log, 'UNKNOWN_SKU') end
if available == nil then available, log.recorded = 0, 0 end
if available + delta < 0 then return refuse(log, available, 'INSUFFICIENT_STOCK', available) end
if available + delta > STOCK_MAX then return refuse(log, available, 'STOCK_LIMIT', available) end

record_external_change(log, available)
append_command(log)
log.recorded = available + delta
redis.call('SET', stock_key, log.recorded)
redis.call('SET', idem_key, fingerprint .. ' ' .. ARGV[1] .. ' ' .. log.seq .. ' ' .. log.recorded, 'PX', idem_ttl_ms)
save_log(log)
return answer(log, 'ADJUSTED', log.recorded)
