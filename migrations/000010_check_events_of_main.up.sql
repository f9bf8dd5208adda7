-- The long part of migration 11, before it locks anything: it reads the journal and the dead letters once. Readers and the
-- journal go on. Parking a dead letter waits until the index is built.
ALTER TABLE events VALIDATE CONSTRAINT pool_is_main;
CREATE UNIQUE INDEX letter_of_message ON dead_letters (source, pool, message_key);
