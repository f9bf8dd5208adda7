-- read.lua reads some SKUs and some holds, and the seq of the log head at the moment of the read.
--
-- KEYS     meta, due, then the stock key of each SKU, then the hash of each hold
-- ARGV     1 the number of SKUs (n), 2 to n+1 the SKUs, then the id of each hold
-- Returns  {epoch, seq, due, skus, holds}
--            due    the number of members of holds:due
--            skus   for each SKU {counter, recorded}
--            holds  for each hold {sku, qty, user_id, state, expires_at, payment_ref, ended_seq, score in holds:due},
--                   or nil if it has neither a hash nor a score
--          A value that Redis lacks is nil. If a key has the wrong type, its first value is WRONGTYPE.
--          {} if Redis has no log for the pool.
-- Writes   nothing
local meta_key, due_key, skus = KEYS[1], KEYS[2], tonumber(ARGV[1])

local log = redis.call('HMGET', meta_key, 'epoch', 'seq')
if not (tonumber(log[1]) and tonumber(log[2])) then return {} end

local stock, holds = {}, {}
for i = 1, skus do
  local units = redis.pcall('GET', KEYS[2 + i])
  if type(units) == 'table' then units = 'WRONGTYPE' end
  stock[i] = {units, redis.call('HGET', meta_key, 'stock:' .. ARGV[1 + i])}
end
local count = #KEYS - 2 - skus
if count > 0 then
  -- Redis removes the hash of a hold some time after the hold ended. In the common case, no hold of the call has a hash or a
  -- score. These two calls find that out for all holds at once, instead of one call for each hold.
  local any_hash = redis.call('EXISTS', unpack(KEYS, 3 + skus)) > 0
  local scores = redis.call('ZMSCORE', due_key, unpack(ARGV, 2 + skus))
  for i = 1, count do
    local hold = false
    if any_hash or scores[i] then
      hold = redis.pcall('HMGET', KEYS[2 + skus + i], 'sku', 'qty', 'user_id', 'state', 'expires_at', 'payment_ref', 'ended_seq')
      if hold.err then hold = {'WRONGTYPE', false, false, false, false, false, false} end
      hold[8] = scores[i]
    end
    holds[i] = hold
  end
end
return {tonumber(log[1]), tonumber(log[2]), redis.call('ZCARD', due_key), stock, holds}
