DROP TABLE sellers;
ALTER TABLE pools DROP COLUMN server;
