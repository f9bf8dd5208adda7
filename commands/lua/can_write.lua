#!lua
-- Can write: does nothing. Redis refuses a script that may write where it could not: on a replica, without memory or disk.
--
-- KEYS  none
-- ARGV  none
-- Answers  1
-- Keeps  nothing is written.
return 1
