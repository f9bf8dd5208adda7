-- How long idempotency keys and ended holds are remembered, as the processes of a pool have promised it. A restore of Redis
-- keeps the longest promise that may still matter to a key.
CREATE TABLE memory_promises (
    pool    text        NOT NULL,
    keep_ms bigint      NOT NULL,
    until   timestamptz NOT NULL, -- no key with this promise outlives this time
    CONSTRAINT memory_promises_pkey PRIMARY KEY (pool, keep_ms)
);
