#!lua
-- Can write: changes nothing, and compares the server as the decide script does. Its
-- first line declares it a script that may write, and Redis refuses to run such a script
-- if a write would fail: on a replica, without free memory, or after a failed save to
-- disk.
--
-- KEYS  meta
-- ARGV  none
-- Answers  SAME_SERVER · OTHER_SERVER (the log was not compared with the journal since it
--          came to this server)
-- Keeps  Redis stays as it is.
local meta_key = unpack(KEYS)

local server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
return {redis.call('HGET', meta_key, 'server') == server and 'SAME_SERVER' or 'OTHER_SERVER'}
