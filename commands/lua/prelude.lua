-- What the rules share. The script that Redis runs is this file, then one file per rule, then decide.lua: commands that
-- arrive together are decided together, one after the other, in one call.
--
-- KEYS 1-3  meta, stream, due; then those of each command, as its rule says
-- ARGV 1-2  what the calling process knows of the log: the epoch, and the highest seq it saw acknowledged in it; then
--           one for each command, which holds texts in msgpack: the name of its rule, the event to append (event_id,
--           type, payload, metadata), and what the rule says
--
-- Order within a rule: look at everything first, then append, then change the rest. An error midway does not roll
-- back, and Redis refuses a script for want of memory or of a disk only at its first write.
local meta_key, stream_key, due_key = KEYS[1], KEYS[2], KEYS[3]
local known_epoch, known_seq = tonumber(ARGV[1]), tonumber(ARGV[2])

local STOCK_MAX = 1e12 -- units that an adjustment may bring a stock to
local STOCK_READABLE = 1e13 -- with the units that come back from holds; far below 2^53, and its digits survive every conversion

local meta = redis.call('HMGET', meta_key, 'epoch', 'seq')
local time = redis.call('TIME')
local log = {epoch = tonumber(meta[1]), seq = tonumber(meta[2]), now_ms = time[1] * 1000 + math.floor(time[2] / 1000)}
if not log.epoch or not log.seq then
  return {'NOT_READY', 0, 0, log.now_ms, {}}
end
if log.epoch < known_epoch or (log.epoch == known_epoch and log.seq < known_seq) then
  return {'STALE', log.epoch, log.seq, log.now_ms, {}}
end
log.first_seq = log.seq
local now_text = string.format('%d', log.now_ms) -- Redis is slow at making text of a number, so it is made once
-- These fail here, and for all commands, should the pool's own keys hold something else.
redis.call('ZCARD', due_key)
redis.call('XLEN', stream_key)

-- The rules by their names: how many keys each takes, and the function that decides. It is given the place of its first
-- key, and the command's texts.
local rules = {}

-- An answer: a status word, the seq of the command's own event, or the end of the log where nothing was appended, and
-- values.
local function answer(status, ...)
  return {status, log.seq, ...}
end

-- Returns the event's seq as text.
local function append(event_id, type, payload, metadata)
  local seq_text = string.format('%d', log.seq + 1)
  redis.call('XADD', stream_key, '*', 'event_id', event_id, 'type', type, 'payload', payload,
    'metadata', metadata, 'seq', seq_text, 'at', now_text)
  log.seq = log.seq + 1
  return seq_text
end

local stocks = {} -- by sku, as the commands so far leave them; save() writes them

-- The stock of a sku: available (units now; nil for an sku that nobody ever stocked), recorded (units that the events
-- account for; nil for an sku they never named), and invalid where the counter is none.
local function stock_of(sku, stock_key)
  local stock = stocks[sku]
  if stock then return stock end
  stock = {key = stock_key, sku = sku, recorded = tonumber(redis.call('HGET', meta_key, 'stock:' .. sku))}
  local counter = redis.pcall('GET', stock_key)
  if not counter then
    stock.available = stock.recorded and 0
  elseif type(counter) == 'table' or not string.find(counter, '^%d+$') or tonumber(counter) > STOCK_READABLE then
    stock.invalid = true -- a list, a hash, a text, …
  else
    stock.available = tonumber(counter)
  end
  stock.saved_available, stock.saved_recorded = stock.available, stock.recorded
  stocks[sku] = stock
  return stock
end

local ENDED = {CONFIRMED = true, CANCELLED = true, EXPIRED = true} -- states of a hold that nothing changes any more

-- The hold at a key: sku (false for an unknown one), qty (units), state, expires_at (ms; deadline is its text), payment_ref,
-- and ended_seq, its place in the log where it ended. It is invalid where no rule left it like that.
local function hold_at(hold_key)
  local found = redis.call('HMGET', hold_key, 'sku', 'qty', 'state', 'expires_at', 'payment_ref', 'ended_seq')
  local hold = {sku = found[1], qty = tonumber(found[2]), state = found[3], expires_at = tonumber(found[4]), deadline = found[4],
    payment_ref = found[5], ended_seq = tonumber(found[6])}
  local whole = hold.qty and hold.expires_at and string.find(found[2], '^[1-9]%d*$') and string.find(found[4], '^%d+$')
  hold.invalid = not (whole and (hold.state == 'ACTIVE' or ENDED[hold.state] and hold.ended_seq))
  return hold
end

-- A UUIDv7 for an event that the script itself finds: made of the time and of the event's place in the log, so that
-- it is unique without a source of chance.
local function event_id_here()
  local digest = redis.sha1hex(log.epoch .. '/' .. (log.seq + 1) .. '/' .. stream_key)
  local time = string.format('%012x', log.now_ms)
  return string.format('%s-%s-7%s-a%s-%s', string.sub(time, 1, 8), string.sub(time, 9, 12),
    string.sub(digest, 1, 3), string.sub(digest, 4, 6), string.sub(digest, 7, 18))
end

-- Somebody may have typed SET stock:<sku> 3. The difference to what the events account for is recorded first, so that
-- the log always folds to the counters.
local function record_external_change(stock)
  local delta = stock.available - (stock.recorded or 0)
  if delta == 0 and stock.recorded then return end
  local payload = string.format('{"v":2,"sku":%s,"delta":%.0f,"reason":"external","idempotency_key":""}', cjson.encode(stock.sku), delta)
  append(event_id_here(), 'STOCK_ADJUSTED', payload, '{}')
  stock.recorded = stock.available
end

-- Appends an event, changes the available units by what it does, and returns its seq as text.
local function append_stock_change(stock, delta, ...)
  record_external_change(stock)
  local seq_text = append(...)
  stock.available = stock.available + delta
  stock.recorded = stock.available
  return seq_text
end

-- A command that changes nothing may still have found an external change.
local function refuse(stock, status, ...)
  if stock.available ~= stock.recorded then record_external_change(stock) end
  return answer(status, ...)
end

local due = {} -- changes of the due set by hold_id: a deadline (ms, as text), or false to take the hold off

-- Writes what the commands have come to. What follows an append cannot fail: the types of the keys are known by now, and
-- Redis asks for memory and replicas only before the first write.
local function save()
  if log.seq > log.first_seq then
    local fields = {'seq', log.seq}
    for sku, stock in pairs(stocks) do
      if stock.recorded ~= stock.saved_recorded then
        fields[#fields + 1] = 'stock:' .. sku
        fields[#fields + 1] = stock.recorded
      end
      if stock.available ~= stock.saved_available then redis.call('SET', stock.key, stock.available) end
    end
    redis.call('HSET', meta_key, unpack(fields))
  end
  local added, removed = {}, {}
  for hold_id, deadline in pairs(due) do
    if deadline then
      added[#added + 1] = deadline
      added[#added + 1] = hold_id
    else
      removed[#removed + 1] = hold_id
    end
  end
  if #added > 0 then redis.call('ZADD', due_key, unpack(added)) end
  if #removed > 0 then redis.pcall('ZREM', due_key, unpack(removed)) end -- may be all there is to write; the saga asks again
end
