-- Publish: open the restored log. This is the last step of a restore: commands are decided
-- from here on.
--
-- KEYS  meta, closed, next
-- ARGV  1 epoch of the restorer, 2 run_id and 3 master_replid of the Redis that it wrote the
--       keys to
-- Answers  PUBLISHED · OPEN (the pool has another log) ·
--          OTHER_SERVER (Redis restarted, or another Redis took its place) ·
--          SUPERSEDED (another restorer has the right to write)
-- Keeps  a log is opened only if this restorer wrote all of its keys, and this Redis has lost
--        none of them since.
local meta_key, closed_key, next_key = unpack(KEYS)
local epoch, run_id, replication_id = unpack(ARGV)

if redis.call('EXISTS', meta_key) == 1 then
  -- With this epoch it is a repeat of this call, whose reply was lost.
  return {redis.call('HGET', meta_key, 'epoch') == epoch and 'PUBLISHED' or 'OPEN'}
end
local info = redis.call('INFO', 'server', 'replication')
if info:match('run_id:(%x+)') ~= run_id or info:match('master_replid:(%x+)') ~= replication_id then
  return {'OTHER_SERVER'}
end
if redis.call('HGET', next_key, 'epoch') ~= epoch then return {'SUPERSEDED'} end
redis.call('HSET', next_key, 'server', replication_id)
redis.call('RENAME', next_key, meta_key)
redis.call('DEL', closed_key)
return {'PUBLISHED'}
