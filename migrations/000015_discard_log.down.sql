ALTER TABLE pools DROP COLUMN discarded_epoch;
