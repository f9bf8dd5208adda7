-- The indexes for the history of a hold and of a SKU. docs/adr/0006 says what they cost the journal, and why neither starts
-- with the pool. The collation "C" compares bytes, which makes insertions cheaper than the rules of a language.
CREATE INDEX events_of_hold ON events (hold_id COLLATE "C") WHERE hold_id <> '';
CREATE INDEX events_of_sku ON events (sku COLLATE "C", seq);
