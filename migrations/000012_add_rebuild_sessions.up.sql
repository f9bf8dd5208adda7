-- sessions are the Postgres sessions of a running rebuild, as "<start in hex>.<pid in hex>", which is Postgres's own session id (%c in
-- log_line_prefix). A process that finds a rebuild without its lease ends them. waits_for is the session whose lock the swap waits for.
ALTER TABLE rebuilds
    ADD COLUMN sessions  text[] NOT NULL DEFAULT '{}',
    ADD COLUMN waits_for json;
