-- Messages that could not be handled, with everything needed to understand them. A letter is the end of no line:
-- messages of other sequence keys flow on, later ones of the same key wait here behind it.
CREATE TABLE dead_letters (
    id              bigint      GENERATED ALWAYS AS IDENTITY,
    source          text        NOT NULL, -- 'journal', a projection's name, or 'saga'
    message_key     text        NOT NULL, -- what makes the message one: an event id, or a stream id
    sequence_key    text        NOT NULL, -- messages of one key keep their order; '' for none
    pool            text        NOT NULL,
    seq             bigint,               -- null for what has no place in the log
    event_type      text        NOT NULL,
    raw             bytea       NOT NULL, -- exactly what was received
    metadata        jsonb       NOT NULL,
    error           text        NOT NULL,
    stack           text        NOT NULL,
    attempts        integer     NOT NULL,
    first_failed_at timestamptz NOT NULL DEFAULT now(),
    last_failed_at  timestamptz NOT NULL DEFAULT now(),
    status          text        NOT NULL,
    CONSTRAINT dead_letters_pkey PRIMARY KEY (id),
    CONSTRAINT one_letter_per_message UNIQUE (source, message_key),
    CONSTRAINT status_known CHECK (status IN ('parked', 'resolved', 'discarded')),
    CONSTRAINT attempts_positive CHECK (attempts >= 1)
);

-- Every batch of a projection asks which keys are parked, so that later events of those keys can wait behind them.
CREATE INDEX dead_letters_parked_keys ON dead_letters (source, pool, sequence_key)
    WHERE status = 'parked' AND sequence_key <> '';
