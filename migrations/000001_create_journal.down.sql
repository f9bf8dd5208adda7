DROP TABLE checkpoints;
DROP TABLE pools;
DROP VIEW processed_events;
DROP TABLE events;
