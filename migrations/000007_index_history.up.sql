-- What happened to a hold, and to a SKU, in order. docs/adr/0006 says what these two cost the journal, and why neither
-- begins with the pool.
CREATE INDEX events_of_hold ON events (hold_id) WHERE hold_id <> '';
CREATE INDEX events_of_sku ON events (sku, seq);
