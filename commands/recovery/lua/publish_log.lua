-- Publish: open the log that was written anew. It is the last step of restoring, and the first that a command sees.
--
-- KEYS  meta, closed, next
-- ARGV  1 the epoch of the restorer, 2 the run_id and 3 the master_replid of the Redis that it has written to
-- Answers  PUBLISHED · OPEN (there is another log) · OTHER_SERVER (Redis restarted, or another took its place) ·
--          SUPERSEDED (a later life has begun)
-- Keeps  what is opened is whole: the same restorer has written all of it, and this Redis has lost none of it since.
local meta_key, closed_key, next_key = unpack(KEYS)
local epoch, run_id, replication_id = unpack(ARGV)

if redis.call('EXISTS', meta_key) == 1 then
  -- With this epoch it is this very call, sent twice because its answer was lost.
  return {redis.call('HGET', meta_key, 'epoch') == epoch and 'PUBLISHED' or 'OPEN'}
end
local info = redis.call('INFO', 'server', 'replication')
if info:match('run_id:(%x+)') ~= run_id or info:match('master_replid:(%x+)') ~= replication_id then
  return {'OTHER_SERVER'}
end
if redis.call('HGET', next_key, 'epoch') ~= epoch then return {'SUPERSEDED'} end
redis.call('RENAME', next_key, meta_key)
redis.call('DEL', closed_key)
return {'PUBLISHED'}
