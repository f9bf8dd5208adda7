#!lua
-- Can write: does nothing. Redis refuses a script that may write where it could not: on a replica, without memory or disk.
--
-- Answers  WRITABLE
return 'WRITABLE'
