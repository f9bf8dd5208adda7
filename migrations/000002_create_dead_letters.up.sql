-- Dead letters: messages that could not be handled, with all details. A dead letter blocks only its sequence key: later
-- messages of the same key are parked behind it, and messages of other keys are handled as usual.
CREATE TABLE dead_letters (
    id              bigint      GENERATED ALWAYS AS IDENTITY,
    source          text        NOT NULL, -- 'journal', a projection's name, or 'saga'
    message_key     text        NOT NULL, -- identifies the message: an event id, or a stream id
    sequence_key    text        NOT NULL, -- messages with the same key are handled in order; '' for no key
    pool            text        NOT NULL,
    seq             bigint,               -- null for a message without a seq
    event_type      text        NOT NULL,
    raw             bytea       NOT NULL, -- the message as received
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

-- For the query, in every batch of a projection, for the sequence keys that have a parked letter.
CREATE INDEX dead_letters_parked_keys ON dead_letters (source, pool, sequence_key)
    WHERE status = 'parked' AND sequence_key <> '';
