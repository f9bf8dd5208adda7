-- Partitions the journal by pool, and each pool's part by ranges of seq. A pool of its own sequence needs partitions of its
-- own. No row is moved or read: the present table becomes the part of the pool main, with its partitions and indexes.
SELECT lock_tables('events', 'processed_events', 'dead_letters', 'detached_parts');

ALTER TABLE events RENAME TO events_main;
ALTER TABLE events_main RENAME CONSTRAINT events_pkey TO events_main_pkey;
ALTER INDEX events_of_hold RENAME TO events_main_of_hold;
ALTER INDEX events_of_sku RENAME TO events_main_of_sku;

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
) PARTITION BY LIST (pool);
CREATE INDEX events_of_hold ON events (hold_id COLLATE "C") WHERE hold_id <> '';
CREATE INDEX events_of_sku ON events (sku COLLATE "C", seq);

-- The constraint lets Postgres attach the part without reading it. After that, the partition's bound says the same.
ALTER TABLE events ATTACH PARTITION events_main FOR VALUES IN ('main');
ALTER TABLE events_main DROP CONSTRAINT pool_is_main;

CREATE OR REPLACE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events;

-- The new table gets the grants of the old one.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('GRANT %s ON events TO %s%s', privilege_type,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                      CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class, aclexplode(relacl) WHERE oid = 'events_main'::regclass AND grantee <> relowner
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;

-- Partitions that were detached before are of the pool main.
ALTER TABLE detached_parts ADD COLUMN pool text NOT NULL DEFAULT 'main';
ALTER TABLE detached_parts ALTER COLUMN pool DROP DEFAULT;

-- Stream ids are unique within a pool only, so a message is identified by its source, its pool and its key.
ALTER TABLE dead_letters DROP CONSTRAINT one_letter_per_message;
ALTER TABLE dead_letters ADD CONSTRAINT one_letter_per_message UNIQUE USING INDEX letter_of_message;
