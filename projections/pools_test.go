package projections

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
)

// TestPoolsHaveRowsOfTheirOwn applies the same events of one SKU in two pools, and checks
// that each pool has its own rows and checkpoint.
func TestPoolsHaveRowsOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(adjusted(10), created("a", 2), confirmed("a", 2), created("b", 3))
	f.run(0, BuiltIn()...)
	f.await(BuiltIn()...)
	list, err := journal.ReadEvents(f.ctx, f.db, "main", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i].Pool = "eu"
	}
	for _, p := range []Projection{StockLevels(), SKUHours()} { // hold ids differ between pools
		if err := Replay(f.ctx, f.db, p, "eu", list[:2], slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	f.wantRows("stock_levels", "(shirt,5,3,2,main)\n(shirt,8,2,0,eu)")
	got := f.texts(`SELECT (sku, reserved, sold, cancelled, expired, pool)::text FROM sku_hours`)
	if want := "(shirt,2,0,0,0,eu)\n(shirt,5,2,0,0,main)"; got != want {
		t.Errorf("sku_hours: got\n%s\nwant\n%s", got, want)
	}
	if got := f.texts(`SELECT DISTINCT pool FROM holds UNION SELECT pool FROM orders`); got != "main" {
		t.Errorf("pools of holds and orders: got %s, want main", got)
	}
	f.wantCheckpoint("stock_levels", 4)
}

// tablesWithoutPools are the read tables of version 7 of the schema, with rows.
const tablesWithoutPools = `
	DROP TABLE holds, orders, stock_levels, sku_hours;
	CREATE TABLE holds (hold_id text NOT NULL, sku text NOT NULL, qty bigint NOT NULL, user_id text NOT NULL, status text NOT NULL,
		expires_at timestamptz NOT NULL, created_at timestamptz NOT NULL, idempotency_key text NOT NULL, CONSTRAINT holds_pkey PRIMARY KEY (hold_id));
	CREATE TABLE orders (order_id text NOT NULL, hold_id text NOT NULL, user_id text NOT NULL, sku text NOT NULL, qty bigint NOT NULL,
		status text NOT NULL, payment_ref text NOT NULL, created_at timestamptz NOT NULL, CONSTRAINT orders_pkey PRIMARY KEY (order_id));
	CREATE TABLE stock_levels (sku text NOT NULL, available bigint NOT NULL, held bigint NOT NULL, sold bigint NOT NULL,
		CONSTRAINT stock_levels_pkey PRIMARY KEY (sku));
	CREATE TABLE sku_hours (sku text NOT NULL, hour timestamptz NOT NULL, reserved bigint NOT NULL, sold bigint NOT NULL,
		cancelled bigint NOT NULL, expired bigint NOT NULL, CONSTRAINT sku_hours_pkey PRIMARY KEY (sku, hour));
	INSERT INTO holds VALUES ('h', 'shirt', 1, 'ann', 'ACTIVE', now(), now(), 'k');
	INSERT INTO stock_levels VALUES ('shirt', 9, 1, 0);
	INSERT INTO sku_hours VALUES ('shirt', '2025-11-24T16:00Z', 1, 0, 0, 0)`

// writesOfOlderBuild are statements that a worker of version 7 of the schema runs.
const writesOfOlderBuild = `
	INSERT INTO holds (hold_id, sku, qty, user_id, status, expires_at, created_at, idempotency_key)
	VALUES ('h2', 'shirt', 1, 'ann', 'ACTIVE', now(), now(), 'k2');
	INSERT INTO stock_levels (sku, available, held, sold) VALUES ('shirt', 0, 0, 0) ON CONFLICT (sku) DO NOTHING;
	INSERT INTO sku_hours AS h (sku, hour, reserved, sold, cancelled, expired) VALUES ('shirt', '2025-11-24T16:00Z', 1, 0, 0, 0)
	ON CONFLICT (sku, hour) DO UPDATE SET reserved = h.reserved + excluded.reserved`

// TestTablesOfAnOlderBuildGetTheirPool checks that read tables without pools get them
// without a rebuild. A worker of the older build can write until a worker of this build
// takes over; after that the tables are those that Schema creates.
func TestTablesOfAnOlderBuildGetTheirPool(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const shape = `
		WITH tables AS (SELECT oid, relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace
			AND relname = ANY ('{holds,orders,stock_levels,sku_hours}'))
		SELECT format('%s %s %s', relname, attnum, attname) FROM pg_attribute JOIN tables ON oid = attrelid WHERE attnum > 0
		UNION ALL SELECT format('%s %s', relname, pg_get_constraintdef(c.oid))
		FROM pg_constraint c JOIN tables ON tables.oid = conrelid WHERE contype = 'p'`
	want := f.texts(shape)
	f.exec(tablesWithoutPools)
	for range 2 {
		if err := CreateTables(f.ctx, f.db, BuiltIn()...); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.execOnly(writesOfOlderBuild); err != nil {
		t.Errorf("a worker of the older build, before the takeover: %v", err)
	}
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) SELECT name, 'main', 0 FROM unnest($1::text[]) AS name`,
		Names(BuiltIn()))
	f.journal(adjusted(5), created("a", 2))
	f.run(0, BuiltIn()...)
	f.await(BuiltIn()...)
	f.wantRows("stock_levels", "(shirt,12,3,0,main)")
	f.wantHold("h2", "ACTIVE")
	if got := f.texts(shape); got != want {
		t.Errorf("upgraded tables: got\n%s\nwant those that Schema creates:\n%s", got, want)
	}
	f.exec(`DELETE FROM holds WHERE hold_id = 'h2'`)
	if err := f.execOnly(writesOfOlderBuild); err == nil || !strings.Contains(err.Error(), "ON CONFLICT") {
		t.Errorf("a worker of the older build, after the takeover: got %v, want it refused", err)
	}
}

// execOnly runs statements in one transaction and returns their error.
func (f *fixture) execOnly(sql string) error {
	return pgx.BeginFunc(f.ctx, f.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(f.ctx, sql)
		return err
	})
}
