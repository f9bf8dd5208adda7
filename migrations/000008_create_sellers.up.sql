-- The Redis, by its master_replid, for which a pool's epoch was last raised.
ALTER TABLE pools ADD COLUMN server text; -- null until the next raise

-- The processes that take commands for a pool, and the Redis that each of them decides in. A process repeats its row every
-- second. No process restores a Redis while another process sells on another one: a stock must not be sold twice.
CREATE TABLE sellers (
    pool        text        NOT NULL,
    process     text        NOT NULL, -- host name, process id, and a random number
    server      text        NOT NULL, -- master_replid of the Redis that answered
    reported_at timestamptz NOT NULL,
    CONSTRAINT sellers_pkey PRIMARY KEY (pool, process)
) WITH (fillfactor = 50); -- room for updates in place
