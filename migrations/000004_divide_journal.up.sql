-- Partitions the journal by ranges of seq, so that old partitions can be detached, archived and attached again. No row is
-- moved: the existing table becomes the first partition. The journal creates further partitions itself.
ALTER TABLE events RENAME TO events_1;
ALTER TABLE events_1 RENAME CONSTRAINT events_pkey TO events_1_pkey;
ALTER TABLE events_1 RENAME CONSTRAINT event_id_once TO events_1_event_id_once;

CREATE TABLE events (
    pool        text        NOT NULL,
    seq         bigint      NOT NULL,
    event_id    uuid        NOT NULL, -- unique within a partition; (pool, seq) identifies an event in all of them
    type        text        NOT NULL,
    sku         text        NOT NULL, -- '' if the payload has no SKU
    hold_id     text        NOT NULL, -- '' if the payload has no hold
    payload     jsonb       NOT NULL,
    metadata    jsonb       NOT NULL,
    at          timestamptz NOT NULL, -- when Redis decided it, by Redis's clock
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT events_pkey PRIMARY KEY (pool, seq),
    CONSTRAINT seq_from_one CHECK (seq >= 1)
) PARTITION BY RANGE (seq);

-- The first partition ends at the first multiple of part_events above the highest seq. Each partition has its bounds as a
-- constraint, so that Postgres can attach it without reading its rows.
DO $$
DECLARE
    part_events CONSTANT bigint := 2000000; -- the same number as in the Go code that creates partitions
    part_end bigint;
BEGIN
    SELECT (coalesce(max(seq), 0) / part_events + 1) * part_events + 1 INTO part_end FROM events_1;
    EXECUTE format('ALTER TABLE events_1 ADD CONSTRAINT part_bounds CHECK (seq >= 1 AND seq < %s)', part_end);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM (1) TO (%s)', part_end);
END $$;

DROP VIEW processed_events;
CREATE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events;

-- The detached partitions. A replay that needs the events of one is refused until it is attached again.
CREATE TABLE detached_parts (
    part        text        NOT NULL,
    first_seq   bigint      NOT NULL,
    last_seq    bigint      NOT NULL,
    events      bigint      NOT NULL,
    digest      text        NOT NULL, -- of its rows, independent of their order
    detached_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT detached_parts_pkey PRIMARY KEY (part),
    CONSTRAINT detached_parts_bounds CHECK (first_seq >= 1 AND first_seq <= last_seq),
    CONSTRAINT detached_parts_events CHECK (events >= 0)
);
