-- What the scripts share. It is put in front of each of them when they are loaded.
--
-- Every script is called with
--   ARGV 1-4  the event to append: event_id, type, payload (JSON), metadata (JSON)
--   ARGV 5-6  what the calling process knows of the log: the epoch, and the highest seq it saw acknowledged in it
-- and answers {status, epoch, seq, now_ms, ...}: seq is the command's own event, or the end of the log where nothing
-- was appended; now_ms is Redis's clock.
--
-- Order within a script: look at everything first, then append, then change the rest. An error midway does not roll
-- back, and Redis refuses a script for want of memory or of a disk only at its first write.

local STOCK_MAX = 1e12 -- units; far below 2^53, and its digits survive every conversion

-- The log as this call finds it, or nil and the answer that refuses the call.
local function open_log(meta_key, stream_key, sku)
  local meta = redis.call('HMGET', meta_key, 'epoch', 'seq', 'stock:' .. sku)
  local time = redis.call('TIME')
  local log = {
    meta_key = meta_key, stream_key = stream_key, sku = sku,
    epoch = tonumber(meta[1]), seq = tonumber(meta[2]),
    recorded = tonumber(meta[3]), -- units of sku that the events account for; nil for an sku they never named
    now_ms = time[1] * 1000 + math.floor(time[2] / 1000),
  }
  if not log.epoch or not log.seq then
    return nil, {'NOT_READY', 0, 0, log.now_ms}
  end
  local known_epoch, known_seq = tonumber(ARGV[5]), tonumber(ARGV[6])
  if log.epoch < known_epoch or (log.epoch == known_epoch and log.seq < known_seq) then
    return nil, {'STALE', log.epoch, log.seq, log.now_ms}
  end
  return log
end

-- An answer with what all answers have.
local function answer(log, status, ...)
  return {status, log.epoch, log.seq, log.now_ms, ...}
end

local function append(log, event_id, type, payload, metadata)
  log.seq = log.seq + 1
  redis.call('XADD', log.stream_key, '*', 'event_id', event_id, 'type', type, 'payload', payload,
    'metadata', metadata, 'seq', log.seq, 'at', log.now_ms)
end

-- Appends the command's own event.
local function append_command(log)
  append(log, ARGV[1], ARGV[2], ARGV[3], ARGV[4])
end

-- Units available now: nil for an sku that nobody ever stocked, and false for a counter that is none.
local function read_stock(log, stock_key)
  local stock = redis.pcall('GET', stock_key)
  if type(stock) == 'table' then return false end -- a list, a hash, …
  if not stock then return log.recorded and 0 or nil end
  if not string.find(stock, '^%d+$') or #stock > 13 or tonumber(stock) > STOCK_MAX then return false end
  return tonumber(stock)
end

-- A UUIDv7 for an event that the script itself finds: made of the time and of the event's place in the log, so that
-- it is unique without a source of chance.
local function event_id_here(log)
  local digest = redis.sha1hex(log.epoch .. '/' .. (log.seq + 1) .. '/' .. log.stream_key)
  local time = string.format('%012x', log.now_ms)
  return string.format('%s-%s-7%s-a%s-%s', string.sub(time, 1, 8), string.sub(time, 9, 12),
    string.sub(digest, 1, 3), string.sub(digest, 4, 6), string.sub(digest, 7, 18))
end

-- Somebody may have typed SET stock:<sku> 3. The difference to what the events account for is recorded first, so that
-- the log always folds to the counters.
local function record_external_change(log, available)
  local delta = available - (log.recorded or 0)
  if delta == 0 and log.recorded then return end
  local payload = string.format('{"sku":%s,"delta":%.0f,"reason":"external"}', cjson.encode(log.sku), delta)
  append(log, event_id_here(log), 'STOCK_ADJUSTED', payload, '{}')
  log.recorded = available
end

-- The sequence moves on, and with it the stock that the events account for.
local function save_log(log)
  if log.recorded then
    redis.call('HSET', log.meta_key, 'seq', log.seq, 'stock:' .. log.sku, log.recorded)
  else
    redis.call('HSET', log.meta_key, 'seq', log.seq)
  end
end

-- A command that changes nothing may still have found an external change.
local function refuse(log, available, status, ...)
  if available and available ~= log.recorded then
    record_external_change(log, available)
    save_log(log)
  end
  return answer(log, status, ...)
end
