-- What happened to a hold, and to a SKU, in order. docs/adr/0006 says what these two cost the journal, and why neither
-- begins with the pool. They compare bytes: a language's rules would make each insertion dearer, and serve nobody.
CREATE INDEX events_of_hold ON events (hold_id COLLATE "C") WHERE hold_id <> '';
CREATE INDEX events_of_sku ON events (sku COLLATE "C", seq);
