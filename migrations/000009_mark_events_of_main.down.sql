SELECT lock_tables('events');
ALTER TABLE events DROP CONSTRAINT pool_is_main;
DROP FUNCTION lock_tables;
