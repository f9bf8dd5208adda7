-- Projections of the journal. They can be thrown away: everything in them follows from the events.
CREATE TABLE holds (
    hold_id         text        NOT NULL,
    sku             text        NOT NULL,
    qty             bigint      NOT NULL,
    user_id         text        NOT NULL,
    status          text        NOT NULL,
    expires_at      timestamptz NOT NULL,
    created_at      timestamptz NOT NULL,
    idempotency_key text        NOT NULL,
    CONSTRAINT holds_pkey PRIMARY KEY (hold_id),
    CONSTRAINT holds_qty_positive CHECK (qty > 0),
    CONSTRAINT holds_status_known CHECK (status IN ('ACTIVE', 'CONFIRMED', 'CANCELLED', 'EXPIRED'))
);

CREATE TABLE orders (
    order_id    text        NOT NULL,
    hold_id     text        NOT NULL,
    user_id     text        NOT NULL,
    sku         text        NOT NULL,
    qty         bigint      NOT NULL,
    status      text        NOT NULL,
    payment_ref text        NOT NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT orders_pkey PRIMARY KEY (order_id),
    CONSTRAINT one_order_per_hold UNIQUE (hold_id),
    CONSTRAINT orders_qty_positive CHECK (qty > 0),
    CONSTRAINT orders_status_known CHECK (status IN ('CONFIRMED'))
);

CREATE TABLE stock_levels (
    sku       text   NOT NULL,
    available bigint NOT NULL,
    held      bigint NOT NULL,
    sold      bigint NOT NULL,
    CONSTRAINT stock_levels_pkey PRIMARY KEY (sku),
    CONSTRAINT available_not_negative CHECK (available >= 0),
    CONSTRAINT held_not_negative CHECK (held >= 0),
    CONSTRAINT sold_not_negative CHECK (sold >= 0)
);
