-- The state and the last report of each pool's audit. One row per pool.
CREATE TABLE audits (
    pool         text        NOT NULL,
    verified_seq bigint      NOT NULL, -- the tables below are computed from the journal up to this seq, and were verified
    live_holds   bigint      NOT NULL, -- number of live holds at verified_seq
    stream_id    text        NOT NULL, -- id of the last compared entry of the stream; '' for none
    sku_cursor   text        NOT NULL, -- the SKU at which the repeated check of unchanged SKUs continues
    hold_cursor  text        NOT NULL, -- the same for holds
    hour_floor   bigint      NOT NULL, -- the first hour that was not over at verified_seq, in hours since 1970
    verified_at  timestamptz,          -- null before the first clean audit
    last_at      timestamptz NOT NULL,
    report       jsonb       NOT NULL, -- of the last audit, whatever its outcome
    CONSTRAINT audits_pkey PRIMARY KEY (pool),
    CONSTRAINT verified_seq_not_negative CHECK (verified_seq >= 0)
);

-- The stock of every SKU at verified_seq. The available units are received - removed - held - sold.
CREATE TABLE audit_skus (
    pool     text    NOT NULL,
    sku      text    NOT NULL,
    received bigint  NOT NULL,
    removed  bigint  NOT NULL,
    held     bigint  NOT NULL,
    sold     bigint  NOT NULL,
    recheck  boolean NOT NULL, -- a difference was found that a dead letter explains: check again
    CONSTRAINT audit_skus_pkey PRIMARY KEY (pool, sku)
);

-- The holds that were live at verified_seq, and ended holds that must be checked again. All other holds are deleted.
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
    payment_ref     text    NOT NULL, -- '' unless the hold is confirmed
    ended_at_ms     bigint  NOT NULL, -- 0 for a live hold
    ended_seq       bigint  NOT NULL, -- 0 for a live hold
    recheck         boolean NOT NULL,
    CONSTRAINT audit_holds_pkey PRIMARY KEY (pool, hold_id)
);

-- Units per SKU and hour at verified_seq, for hours that were not over and hours that must be checked again.
CREATE TABLE audit_hours (
    pool      text   NOT NULL,
    sku       text   NOT NULL,
    hour      bigint NOT NULL, -- in hours since 1970
    reserved  bigint NOT NULL,
    sold      bigint NOT NULL,
    cancelled bigint NOT NULL,
    expired   bigint NOT NULL,
    CONSTRAINT audit_hours_pkey PRIMARY KEY (pool, sku, hour)
);

CREATE INDEX audit_skus_recheck ON audit_skus (pool) WHERE recheck;
CREATE INDEX audit_holds_recheck ON audit_holds (pool) WHERE recheck;
