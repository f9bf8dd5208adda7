-- Logs in Redis of this epoch, or of an earlier one, are discarded: an operator repaired the pool, and Redis has yet to be
-- restored from the journal. Nothing is journaled meanwhile. Null when no restore is pending.
ALTER TABLE pools ADD COLUMN discarded_epoch bigint;
