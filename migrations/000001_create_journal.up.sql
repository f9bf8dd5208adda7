-- The journal: the record of every event, one row each. Within a pool, seq is the order in which Redis decided them.
CREATE TABLE events (
    pool        text        NOT NULL,
    seq         bigint      NOT NULL,
    event_id    uuid        NOT NULL,
    type        text        NOT NULL,
    sku         text        NOT NULL, -- '' if the payload has no SKU
    hold_id     text        NOT NULL, -- '' if the payload has no hold
    payload     jsonb       NOT NULL,
    metadata    jsonb       NOT NULL,
    at          timestamptz NOT NULL, -- when Redis decided it, by Redis's clock
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT events_pkey PRIMARY KEY (pool, seq),
    CONSTRAINT event_id_once UNIQUE (event_id),
    CONSTRAINT seq_from_one CHECK (seq >= 1)
);

-- All journaled events, as a view whose name operators may look for.
CREATE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events;

-- The pools that have been set up, with the epoch of their Redis log. An empty Redis is set up from nothing only if its pool
-- has no row here; otherwise it would sell its stock a second time.
CREATE TABLE pools (
    pool           text        NOT NULL,
    epoch          bigint      NOT NULL,
    initialised_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pools_pkey PRIMARY KEY (pool),
    CONSTRAINT epoch_from_one CHECK (epoch >= 1)
);

-- The position of each reader of a pool's log. A reader moves its checkpoint in the transaction that writes the rows of the
-- events up to it. So an event is never applied twice, and a second worker for the same reader fails.
CREATE TABLE checkpoints (
    projection text        NOT NULL, -- a projection's name, or 'journal'
    pool       text        NOT NULL,
    seq        bigint      NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT checkpoints_pkey PRIMARY KEY (projection, pool),
    CONSTRAINT seq_not_negative CHECK (seq >= 0)
);
