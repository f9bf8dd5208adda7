-- Locks tables for a change of their definition, against every reader and writer. It waits for 200 ms at a time, because
-- everyone else queues behind a waiting lock; so a long transaction delays the change, and nothing but the change. The locks
-- are kept until the end of the transaction.
CREATE FUNCTION lock_tables(VARIADIC tables regclass[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    attempts_max CONSTANT integer := 600; -- five minutes
    holders text;
BEGIN
    PERFORM set_config('statement_timeout', '0', true), set_config('lock_timeout', '200ms', true);
    FOR attempt IN 1..attempts_max LOOP
        BEGIN
            EXECUTE 'LOCK TABLE ' || array_to_string(tables, ', ') || ' IN ACCESS EXCLUSIVE MODE';
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(0.3);
        END;
    END LOOP;
    SELECT string_agg(DISTINCT format('session %s (%s, since %s)', l.pid, a.application_name, a.xact_start), ', ') INTO holders
    FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) WHERE l.relation = ANY (tables) AND l.granted;
    RAISE EXCEPTION 'no lock on % within five minutes; it is used by %', array_to_string(tables, ', '), holders
    USING ERRCODE = 'lock_not_available', HINT = 'End these transactions, then migrate again.';
END $$;

-- Prepares migration 11, which partitions the journal by pool. Every event of the present table must belong to the pool main.
-- Migration 10 checks that, without blocking the journal.
SELECT lock_tables('events');
ALTER TABLE events ADD CONSTRAINT pool_is_main CHECK (pool = 'main') NOT VALID;
