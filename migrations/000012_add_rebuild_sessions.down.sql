ALTER TABLE rebuilds
    DROP COLUMN sessions,
    DROP COLUMN waits_for;
