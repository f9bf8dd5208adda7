-- The record of truth. One row per event, in the order in which the pool's script decided them.
CREATE TABLE events (
    pool        text        NOT NULL,
    seq         bigint      NOT NULL,
    event_id    uuid        NOT NULL,
    type        text        NOT NULL,
    sku         text        NOT NULL, -- '' where the payload names none
    hold_id     text        NOT NULL, -- '' where the payload names none
    payload     jsonb       NOT NULL,
    metadata    jsonb       NOT NULL,
    at          timestamptz NOT NULL, -- Redis's clock, when it was decided
    recorded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT events_pkey PRIMARY KEY (pool, seq),
    CONSTRAINT event_id_once UNIQUE (event_id),
    CONSTRAINT seq_from_one CHECK (seq >= 1)
);

-- What every event has gone through, for people who look for it under this name.
CREATE VIEW processed_events AS
SELECT event_id, type AS event_type, recorded_at AS processed_at FROM events;

-- A pool that has once been set up must never be set up anew from nothing: an emptied Redis would sell again.
CREATE TABLE pools (
    pool           text        NOT NULL,
    epoch          bigint      NOT NULL,
    initialised_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pools_pkey PRIMARY KEY (pool),
    CONSTRAINT epoch_from_one CHECK (epoch >= 1)
);

-- How far each reader of a pool's log has come. It moves in the transaction that writes the rows it accounts for,
-- which makes this row the deduplication and the fence against a second runner in one.
CREATE TABLE checkpoints (
    projection text        NOT NULL, -- 'journal' for the journal itself
    pool       text        NOT NULL,
    seq        bigint      NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT checkpoints_pkey PRIMARY KEY (projection, pool),
    CONSTRAINT seq_not_negative CHECK (seq >= 0)
);
