ALTER TABLE checkpoints DROP COLUMN fault;
