-- The hole or fork at which the journal stopped. Processes that take commands stop, too: what they decide could never be
-- journaled.
ALTER TABLE checkpoints ADD COLUMN fault text; -- null while the journal goes on
