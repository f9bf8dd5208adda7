-- The journal is divided into parts, each with the events of a range of seq, so that old ones can be detached, archived
-- and brought back. No row is moved: the table as it was becomes the first part. The journal makes further parts itself.
ALTER TABLE events RENAME TO events_1;
ALTER TABLE events_1 RENAME CONSTRAINT events_pkey TO events_1_pkey;
ALTER TABLE events_1 RENAME CONSTRAINT event_id_once TO events_1_event_id_once;

CREATE TABLE events (
    pool        text        NOT NULL,
    seq         bigint      NOT NULL,
    event_id    uuid        NOT NULL, -- unique within a part; what makes an event one is its place, (pool, seq)
    type        text        NOT NULL,
    sku         text        NOT NULL, -- '' where the payload names none
    hold_id     text        NOT NULL, -- '' where the payload names none
    payload     jsonb       NOT NULL,
    metadata    jsonb       NOT NULL,
    at          timestamptz NOT NULL, -- Redis's clock, when it was decided
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT events_pkey PRIMARY KEY (pool, seq),
    CONSTRAINT seq_from_one CHECK (seq >= 1)
) PARTITION BY RANGE (seq);

-- The first part ends at a whole number of parts above what is there. Each part says its bounds as a constraint, so
-- that attaching it needs no look at its rows.
DO $$
DECLARE
    part_events CONSTANT bigint := 2000000; -- as in events/parts.go
    part_end bigint;
BEGIN
    SELECT (coalesce(max(seq), 0) / part_events + 1) * part_events + 1 INTO part_end FROM events_1;
    EXECUTE format('ALTER TABLE events_1 ADD CONSTRAINT part_bounds CHECK (seq >= 1 AND seq < %s)', part_end);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM (1) TO (%s)', part_end);
END $$;

DROP VIEW processed_events;
CREATE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events;

-- What the journal lacks on purpose. A replay that would need one of these is refused until it is attached again.
CREATE TABLE detached_parts (
    part        text        NOT NULL,
    first_seq   bigint      NOT NULL,
    last_seq    bigint      NOT NULL,
    events      bigint      NOT NULL,
    digest      text        NOT NULL, -- of its rows, whatever their order
    detached_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT detached_parts_pkey PRIMARY KEY (part),
    CONSTRAINT detached_parts_bounds CHECK (first_seq >= 1 AND first_seq <= last_seq),
    CONSTRAINT detached_parts_events CHECK (events >= 0)
);
