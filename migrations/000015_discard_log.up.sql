-- Whether the log in Redis is discarded: an operator repaired the pool, and Redis has yet to be restored from the journal.
-- It is true from that decision until the restored log opens.
ALTER TABLE pools ADD COLUMN discarded boolean NOT NULL DEFAULT false;
