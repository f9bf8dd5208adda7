-- Publish: open the log that was written anew. It is the last step of restoring, and the first that a command sees.
--
-- KEYS  meta, closed, next
-- ARGV  1 the epoch of the restorer
-- Answers  PUBLISHED · OPEN (there is another log) · SUPERSEDED (a later life has begun)
-- Keeps  what is opened is whole: the same restorer has written all of it.
local meta_key, closed_key, next_key = unpack(KEYS)
local epoch = ARGV[1]

if redis.call('EXISTS', meta_key) == 1 then
  -- With this epoch it is this very call, sent twice because its answer was lost.
  return {redis.call('HGET', meta_key, 'epoch') == epoch and 'PUBLISHED' or 'OPEN'}
end
if redis.call('HGET', next_key, 'epoch') ~= epoch then return {'SUPERSEDED'} end
redis.call('RENAME', next_key, meta_key)
redis.call('DEL', closed_key)
return {'PUBLISHED'}
