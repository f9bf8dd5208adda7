-- Rebuilds of read tables: what runs, and what became of those that ran. Any process may look, or ask for an end. That
-- a row says running means little by itself: whether somebody runs it, a lease tells.
CREATE TABLE rebuilds (
    id           bigint      GENERATED ALWAYS AS IDENTITY,
    projections  text[]      NOT NULL,
    state        text        NOT NULL,
    step         text        NOT NULL,
    done         bigint      NOT NULL DEFAULT 0,
    total        bigint      NOT NULL DEFAULT 0,
    exchanged    text[]      NOT NULL DEFAULT '{}', -- projections whose new tables serve
    cancel_asked boolean     NOT NULL DEFAULT false,
    error        text        NOT NULL DEFAULT '',
    differences  json        NOT NULL DEFAULT '[]', -- between the old and the new tables; rows keep their columns' order
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    CONSTRAINT rebuilds_pkey PRIMARY KEY (id),
    CONSTRAINT rebuild_state_known CHECK (state IN ('running', 'done', 'failed', 'cancelled', 'interrupted')),
    CONSTRAINT rebuild_finished CHECK ((state = 'running') = (finished_at IS NULL))
);
