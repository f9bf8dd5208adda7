ALTER TABLE pools DROP COLUMN discarded;
