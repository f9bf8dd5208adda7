-- Undoes migration 11, and the pools of the read tables, as long as main is the only pool. A schema without pools cannot hold
-- the events of another one.
SELECT lock_tables('events', 'processed_events', 'dead_letters', 'detached_parts');
DO $$
DECLARE
    others text;
BEGIN
    SELECT string_agg(DISTINCT pool, ', ') INTO others FROM (
        (SELECT pool FROM events WHERE pool <> 'main' LIMIT 1)
        UNION ALL SELECT pool FROM detached_parts WHERE pool <> 'main'
        UNION ALL SELECT pool FROM dead_letters WHERE pool <> 'main'
    ) AS used;
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'the journal has events or dead letters of the pool %, which a schema without pools cannot hold', others;
    END IF;
END $$;

ALTER TABLE events DETACH PARTITION events_main;
CREATE OR REPLACE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events_main;
DROP TABLE events;
ALTER TABLE events_main RENAME TO events;
ALTER TABLE events RENAME CONSTRAINT events_main_pkey TO events_pkey;
ALTER INDEX events_main_of_hold RENAME TO events_of_hold;
ALTER INDEX events_main_of_sku RENAME TO events_of_sku;
ALTER TABLE events ADD CONSTRAINT pool_is_main CHECK (pool = 'main') NOT VALID;

ALTER TABLE detached_parts DROP COLUMN pool;

ALTER TABLE dead_letters DROP CONSTRAINT one_letter_per_message;
ALTER TABLE dead_letters ADD CONSTRAINT one_letter_per_message UNIQUE (source, message_key);
CREATE UNIQUE INDEX letter_of_message ON dead_letters (source, pool, message_key);

-- Dropping the column also drops the primary key that contains it.
DO $$
DECLARE
    name text;
    key text;
BEGIN
    FOR name, key IN VALUES ('holds', 'hold_id'), ('orders', 'order_id'), ('stock_levels', 'sku'), ('sku_hours', 'sku, hour') LOOP
        CONTINUE WHEN to_regclass(quote_ident(current_schema()) || '.' || name) IS NULL;
        PERFORM lock_tables(name::regclass);
        EXECUTE format('ALTER TABLE %I DROP COLUMN IF EXISTS pool', name);
        IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = name::regclass AND contype = 'p') THEN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I PRIMARY KEY (%s)', name, name || '_pkey', key);
        END IF;
    END LOOP;
END $$;
