#!lua
-- Can write: does nothing. Its first line declares it a script that may write, and Redis
-- refuses to run such a script if a write would fail: on a replica, without free memory,
-- or after a failed save to disk.
--
-- KEYS  none
-- ARGV  none
-- Answers  1
-- Keeps  Redis stays as it is.
return 1
