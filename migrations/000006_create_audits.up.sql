-- Where the audit of a pool has come to, and how its last run ended. One row per pool.
CREATE TABLE audits (
    pool         text        NOT NULL,
    verified_seq bigint      NOT NULL, -- the tables below are the fold of the journal up to here, found true
    live_holds   bigint      NOT NULL, -- how many there were at verified_seq
    stream_id    text        NOT NULL, -- the last entry of the stream that was compared; '' for none
    sku_cursor   text        NOT NULL, -- where the round through keys that do not change goes on
    hold_cursor  text        NOT NULL,
    hour_floor   bigint      NOT NULL, -- the first hour, since 1970, that was not over at verified_seq
    verified_at  timestamptz,          -- null before the first clean audit
    last_at      timestamptz NOT NULL,
    report       jsonb       NOT NULL, -- of the last run, however it ended
    CONSTRAINT audits_pkey PRIMARY KEY (pool),
    CONSTRAINT verified_seq_not_negative CHECK (verified_seq >= 0)
);

-- The stock of every SKU at verified_seq. What is available is received - removed - held - sold.
CREATE TABLE audit_skus (
    pool     text    NOT NULL,
    sku      text    NOT NULL,
    received bigint  NOT NULL,
    removed  bigint  NOT NULL,
    held     bigint  NOT NULL,
    sold     bigint  NOT NULL,
    recheck  boolean NOT NULL, -- something was found that a dead letter explains: look again
    CONSTRAINT audit_skus_pkey PRIMARY KEY (pool, sku)
);

-- The holds that were live at verified_seq, and ended ones that must be looked at again. It stays as small as they are.
CREATE TABLE audit_holds (
    pool            text    NOT NULL,
    hold_id         text    NOT NULL,
    sku             text    NOT NULL,
    qty             bigint  NOT NULL,
    user_id         text    NOT NULL,
    idempotency_key text    NOT NULL,
    created_at_ms   bigint  NOT NULL,
    expires_at_ms   bigint  NOT NULL,
    status          text    NOT NULL,
    payment_ref     text    NOT NULL, -- '' unless it was confirmed
    ended_at_ms     bigint  NOT NULL, -- 0 for a live hold
    ended_seq       bigint  NOT NULL, -- 0 for a live hold
    recheck         boolean NOT NULL,
    CONSTRAINT audit_holds_pkey PRIMARY KEY (pool, hold_id)
);

-- Units per SKU and hour at verified_seq, of hours that were not over, and of those that must be looked at again.
CREATE TABLE audit_hours (
    pool      text   NOT NULL,
    sku       text   NOT NULL,
    hour      bigint NOT NULL, -- since 1970
    reserved  bigint NOT NULL,
    sold      bigint NOT NULL,
    cancelled bigint NOT NULL,
    expired   bigint NOT NULL,
    CONSTRAINT audit_hours_pkey PRIMARY KEY (pool, sku, hour)
);

CREATE INDEX audit_skus_recheck ON audit_skus (pool) WHERE recheck;
CREATE INDEX audit_holds_recheck ON audit_holds (pool) WHERE recheck;
