-- Prelude: the checks and functions that the rules share. The script that Redis runs
-- consists of this file, the files of the rules, and decide.lua. One call decides many
-- commands, one after the other.
--
-- KEYS  1 meta, 2 stream, 3 due, then the keys of each command, as its rule's header
--       lists them
-- ARGV  1 known_epoch and 2 known_seq, the highest position in the log that Redis
--       acknowledged to the calling process; then one argument per command. It is a
--       sequence of strings in msgpack: the rule's name, the fields of the event to
--       append (event_id, type, payload, metadata), and the rule's own arguments.
-- Answers  NOT_READY, if Redis has no log for the pool; OTHER_SERVER, if the log was not
--            compared with the journal since it came to this server; STALE, if it ends
--            before known_epoch and known_seq; see decide.lua
-- Keeps  After a decision on a SKU, its counter equals the sum of its events. No command
--        is decided in a Redis without a log, with one that ends too early, or with one
--        that a restart, a promotion or a copy may have cut short.
--
-- Every rule works in this order:
--
--   1. read and check everything,
--   2. append the event,
--   3. write the other keys.
--
-- Redis does not roll a script back after an error. It refuses writes for lack of memory
-- or disk only at a script's first write, so after the append the other writes usually
-- succeed. They may still fail, for example if the ACL user lacks a right. So the first
-- append of a call makes the log head unreadable, and the last write of the call makes it
-- readable again. A call that breaks off in between leaves an unreadable head: commands
-- are answered NOT_READY until Redis was restored from the journal, which has the events
-- that the call appended.
local meta_key, stream_key, due_key = KEYS[1], KEYS[2], KEYS[3]
local known_epoch, known_seq = tonumber(ARGV[1]), tonumber(ARGV[2])

local STOCK_MAX = 1e12 -- units; no adjustment raises a stock above it
-- Units; a larger counter is invalid. Units that return from holds may lift a stock above
-- STOCK_MAX. The number is below 2^53 and has 14 digits, so Lua and Redis convert it
-- without loss.
local STOCK_READABLE = 1e13
-- ms; how long an ended hold is kept at least. A hold whose idempotency key is kept longer
-- has that time in its field keep_ms.
local KEEP_MIN_MS = 24 * 3600 * 1000

local meta = redis.call('HMGET', meta_key, 'epoch', 'seq', 'server')
local time = redis.call('TIME')
local log = {epoch = tonumber(meta[1]), seq = tonumber(meta[2]), now_ms = time[1] * 1000 + math.floor(time[2] / 1000)}
if not log.epoch or not log.seq then
  return {'NOT_READY', 0, 0, log.now_ms, {}}
end
-- Redis gets a new master_replid when it restarts and when it is promoted.
if meta[3] ~= string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') then
  return {'OTHER_SERVER', log.epoch, log.seq, log.now_ms, {}}
end
if log.epoch < known_epoch or (log.epoch == known_epoch and log.seq < known_seq) then
  return {'STALE', log.epoch, log.seq, log.now_ms, {}}
end
local now_text = string.format('%d', log.now_ms) -- formatted once, since that is slow in Redis's Lua
-- If the due set or the stream has the wrong type, the script fails here, before any
-- write.
redis.call('ZCARD', due_key)
redis.call('XLEN', stream_key)

-- The rules by name. keys is the number of keys that a command of the rule has. decide(k,
-- event_id, type, payload, metadata, …) decides a command whose first key is KEYS[k], and
-- returns its answer.
local rules = {}

-- Returns an answer: the status word, the end of the log (which is the command's own
-- event, if it just appended one), and the values.
local function answer(status, ...)
  return {status, log.seq, ...}
end

-- Appends an event to the stream, and returns its seq as text.
local function append(event_id, type, payload, metadata)
  if not log.unfinished then
    redis.call('HSET', meta_key, 'seq', 'unfinished')
    log.unfinished = true
  end
  local seq_text = string.format('%d', log.seq + 1)
  redis.call('XADD', stream_key, '*', 'event_id', event_id, 'type', type, 'payload', payload,
    'metadata', metadata, 'seq', seq_text, 'at', now_text)
  log.seq = log.seq + 1
  return seq_text
end

local stocks = {} -- by sku: the stock after the commands decided so far; save() writes it

-- Returns the stock of a sku, a table with
--   available  units in the counter; nil if the sku is unknown
--   recorded   units according to the events; nil if no event names the sku
--   invalid    true if the counter is not a whole number from 0 to STOCK_READABLE
local function stock_of(sku, stock_key)
  local stock = stocks[sku]
  if stock then return stock end
  stock = {key = stock_key, sku = sku, recorded = tonumber(redis.call('HGET', meta_key, 'stock:' .. sku))}
  local counter = redis.pcall('GET', stock_key)
  if not counter then
    stock.available = stock.recorded and 0
  elseif type(counter) == 'table' or not string.find(counter, '^%d+$') or tonumber(counter) > STOCK_READABLE then
    stock.invalid = true -- a table is Redis's error: the key is not a string
  else
    stock.available = tonumber(counter)
  end
  stock.saved_available, stock.saved_recorded = stock.available, stock.recorded
  stocks[sku] = stock
  return stock
end

local ENDED = {CONFIRMED = true, CANCELLED = true, EXPIRED = true} -- the final states of a hold

-- Returns the hold at a key, a table with
--   sku          false if the hold is unknown
--   qty          units
--   state        ACTIVE or one of ENDED
--   expires_at   ms; deadline is the same as text
--   payment_ref  false unless the hold is confirmed
--   ended_seq    seq of the event that ended the hold
--   keep_ms      ms, how long its idempotency key was kept when the hold was made
--   invalid      true if no rule could have written these fields
local function hold_at(hold_key)
  local found = redis.call('HMGET', hold_key, 'sku', 'qty', 'state', 'expires_at', 'payment_ref', 'ended_seq',
    'keep_ms')
  local hold = {sku = found[1], qty = tonumber(found[2]), state = found[3], expires_at = tonumber(found[4]), deadline = found[4],
    payment_ref = found[5], ended_seq = tonumber(found[6]),
    keep_ms = tonumber(found[7]) or KEEP_MIN_MS}
  local whole = hold.qty and hold.expires_at and string.find(found[2], '^[1-9]%d*$') and string.find(found[4], '^%d+$')
  hold.invalid = not (whole and (hold.state == 'ACTIVE' or ENDED[hold.state] and hold.ended_seq))
  return hold
end

local NO_FIELDS = {}

-- Returns the fields of a new hold that say how long its idempotency key is kept: none, if
-- that is the shortest time.
local function longer_memory(keep_ms)
  return tonumber(keep_ms) > KEEP_MIN_MS and {'keep_ms', keep_ms} or NO_FIELDS
end

-- Lets Redis remove an ended hold after keep_ms or, if its idempotency key was promised a
-- longer memory, after that. So a repeated Reserve always finds its hold.
local function keep_ended(hold_key, hold, keep_ms)
  redis.call('PEXPIRE', hold_key, string.format('%.0f', math.max(tonumber(keep_ms), hold.keep_ms)))
end

-- Returns a UUIDv7 for an event that the script itself makes. It is built from the time
-- and a hash of the event's position in the log, so it is unique without a random number.
local function event_id_here()
  local digest = redis.sha1hex(log.epoch .. '/' .. (log.seq + 1) .. '/' .. stream_key)
  local time = string.format('%012x', log.now_ms)
  return string.format('%s-%s-7%s-a%s-%s', string.sub(time, 1, 8), string.sub(time, 9, 12),
    string.sub(digest, 1, 3), string.sub(digest, 4, 6), string.sub(digest, 7, 18))
end

-- Records a change that an operator made directly in Redis, such as SET stock:<sku> 3:
-- appends a STOCK_ADJUSTED with the difference between the counter and the events. So the
-- events always add up to the counter.
local function record_external_change(stock)
  local delta = stock.available - (stock.recorded or 0)
  if delta == 0 and stock.recorded then return end
  local payload = string.format('{"v":2,"sku":%s,"delta":%.0f,"reason":"external","idempotency_key":""}', cjson.encode(stock.sku), delta)
  append(event_id_here(), 'STOCK_ADJUSTED', payload, '{}')
  stock.recorded = stock.available
end

-- Appends an event that changes the available stock by delta units, and returns its seq
-- as text.
local function append_stock_change(stock, delta, ...)
  record_external_change(stock)
  local seq_text = append(...)
  stock.available = stock.available + delta
  stock.recorded = stock.available
  return seq_text
end

-- Returns the answer to a refused command. It first records an external change, if the
-- command found one.
local function refuse(stock, status, ...)
  if stock.available ~= stock.recorded then record_external_change(stock) end
  return answer(status, ...)
end

local due = {} -- changes of the due set, by hold_id: the deadline to add (ms, as text), or false to remove the hold

-- Writes the changed stock, the due set and, last, the log head, once for all commands of
-- the call. It fails if Redis refuses a write after an append; the head then stays
-- unreadable.
local function save()
  local fields = {'seq', log.seq}
  for sku, stock in pairs(stocks) do
    if stock.recorded ~= stock.saved_recorded then
      fields[#fields + 1] = 'stock:' .. sku
      fields[#fields + 1] = stock.recorded
    end
    if stock.available ~= stock.saved_available then redis.call('SET', stock.key, stock.available) end
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
  if not log.unfinished then
    -- The ZREM is the call's first write, and Redis may refuse it; then the saga removes
    -- the hold later.
    if #removed > 0 then redis.pcall('ZREM', due_key, unpack(removed)) end
    return
  end
  if #removed > 0 then redis.call('ZREM', due_key, unpack(removed)) end
  redis.call('HSET', meta_key, unpack(fields))
end
