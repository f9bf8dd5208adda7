-- Cancel: held units go back to the available stock, because the shopper asks for it or because the deadline passed.
--
-- KEYS  stock, hold, due, meta, stream
-- ARGV  1-6 as in prelude.lua, 7 sku that the event was built for, 8 hold_id, 9 the state it ends in (CANCELLED by
--       request, EXPIRED by deadline), 10 how long the hold is remembered from now on (ms)
-- Answers  CANCELLED, EXPIRED or REPLAYED · HOLD_CONFIRMED · HOLD_CANCELLED · HOLD_EXPIRED · NOT_DUE (EXPIRED was
--          asked for too early) · UNKNOWN_HOLD · HOLD_CHANGED (the event does not fit the hold: read it again) ·
--          STATE_INVALID with the key · NOT_READY · STALE
-- Keeps  a hold ends once, so its units come back once. By request it ends only before its deadline, and by deadline
--        only after it: of the two, exactly one can happen.
local stock_key, hold_key, due_key, meta_key, stream_key = unpack(KEYS)
local sku, hold_id, ends_as, keep_ms = ARGV[7], ARGV[8], ARGV[9], ARGV[10]

local log, refusal = open_log(meta_key, stream_key, sku)
if not log then return refusal end

local hold = redis.call('HMGET', hold_key, 'sku', 'qty', 'state', 'expires_at', 'ended_seq')
local hold_sku, qty, state, expires_at, ended_seq = hold[1], tonumber(hold[2]), hold[3], tonumber(hold[4]), hold[5]
if not hold_sku then return answer(log, 'UNKNOWN_HOLD') end
if hold_sku ~= sku then return answer(log, 'HOLD_CHANGED') end
if not (qty and state and expires_at) then return answer(log, 'STATE_INVALID', hold_key) end
redis.call('ZCARD', due_key) -- fails here, not after the append, should the key hold something else
if state ~= 'ACTIVE' then
  redis.call('ZREM', due_key, hold_id) -- it ended; nothing is due any more
  if state ~= ends_as then return answer(log, 'HOLD_' .. state) end
  log.seq = tonumber(ended_seq)
  return answer(log, 'REPLAYED')
end
local due = log.now_ms >= expires_at
if ends_as == 'EXPIRED' and not due then
  redis.call('ZADD', due_key, expires_at, hold_id)
  return answer(log, 'NOT_DUE')
end
if ends_as == 'CANCELLED' and due then return answer(log, 'HOLD_EXPIRED') end

local available = read_stock(log, stock_key)
if available == false then return answer(log, 'STATE_INVALID', stock_key) end
if available == nil then available, log.recorded = 0, 0 end

record_external_change(log, available)
append_command(log)
log.recorded = available + qty
redis.call('SET', stock_key, log.recorded)
redis.call('HSET', hold_key, 'state', ends_as, 'ended_seq', log.seq)
redis.call('PEXPIRE', hold_key, keep_ms)
redis.call('ZREM', due_key, hold_id)
save_log(log)
return answer(log, ends_as)
