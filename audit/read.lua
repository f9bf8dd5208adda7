-- Read: what Redis holds of some SKUs and some holds, and the end of the log at which all of it is so.
--
-- KEYS  meta, due, then the stock key of each sku, then the hash of each hold
-- ARGV  1 how many skus there are (n), then n skus, then the id of each hold
-- Answers  {epoch, seq, live, skus, holds}: live is the number of members of due; of each sku {stock, recorded}; of
--          each hold {sku, qty, user_id, state, expires_at, payment_ref, ended_seq, score in due}, or nil where there
--          is neither a hash nor a score. What is not there is nil; of a key of the wrong type the first value is
--          WRONGTYPE. Without a log the answer is {}.
-- Keeps  it writes nothing.
local meta_key, due_key, skus = KEYS[1], KEYS[2], tonumber(ARGV[1])

local log = redis.call('HMGET', meta_key, 'epoch', 'seq')
if not (log[1] and log[2]) then return {} end

local stock, holds = {}, {}
for i = 1, skus do
  local units = redis.pcall('GET', KEYS[2 + i])
  if type(units) == 'table' then units = 'WRONGTYPE' end
  stock[i] = {units, redis.call('HGET', meta_key, 'stock:' .. ARGV[1 + i])}
end
local count = #KEYS - 2 - skus
if count > 0 then
  -- Most holds that ended have been forgotten, so two calls for all of them usually say everything.
  local remembered = redis.call('EXISTS', unpack(KEYS, 3 + skus)) > 0
  local scores = redis.call('ZMSCORE', due_key, unpack(ARGV, 2 + skus))
  for i = 1, count do
    local hold = false
    if remembered or scores[i] then
      hold = redis.pcall('HMGET', KEYS[2 + skus + i], 'sku', 'qty', 'user_id', 'state', 'expires_at', 'payment_ref', 'ended_seq')
      if hold.err then hold = {'WRONGTYPE', false, false, false, false, false, false} end
      hold[8] = scores[i]
    end
    holds[i] = hold
  end
end
return {tonumber(log[1]), tonumber(log[2]), redis.call('ZCARD', due_key), stock, holds}
