-- The rebuilds of read tables, one row each: their progress and result. Any process may read a row, or ask for cancellation.
-- The state 'running' alone does not prove that a process runs the rebuild: it must also hold the rebuild's lease.
CREATE TABLE rebuilds (
    id           bigint      GENERATED ALWAYS AS IDENTITY,
    projections  text[]      NOT NULL,
    state        text        NOT NULL,
    step         text        NOT NULL,
    done         bigint      NOT NULL DEFAULT 0,
    total        bigint      NOT NULL DEFAULT 0,
    exchanged    text[]      NOT NULL DEFAULT '{}', -- the projections whose new tables have been swapped in
    cancel_asked boolean     NOT NULL DEFAULT false,
    error        text        NOT NULL DEFAULT '',
    differences  json        NOT NULL DEFAULT '[]', -- between the old and the new tables; json, not jsonb, keeps the order of columns
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    CONSTRAINT rebuilds_pkey PRIMARY KEY (id),
    CONSTRAINT rebuild_state_known CHECK (state IN ('running', 'done', 'failed', 'cancelled', 'interrupted')),
    CONSTRAINT rebuild_finished CHECK ((state = 'running') = (finished_at IS NULL))
);
