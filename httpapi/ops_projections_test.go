package httpapi

import (
	"fmt"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// awaitRebuild waits for the end of a projection's newest rebuild, and returns its state.
func (s *shop) awaitRebuild(name string) (state string) {
	s.t.Helper()
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		r := s.get("/ops/projections/" + name)
		run, _ := r.body["rebuild"].(map[string]any)
		state, _ = run["state"].(string)
		return state != "" && state != "running", r.raw
	})
	return state
}

// TestOpsProjections goes through the life of a rebuild: begun, refused for its difference, accepted, back, dropped.
func TestOpsProjections(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.project(`INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		VALUES ('main', 1, gen_random_uuid(), 'STOCK_ADJUSTED', 'shirt', '', '{"sku":"shirt","delta":5,"reason":"r"}', '{}', now())`)
	s.project(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', 1), ('stock_levels', 'main', 1)`)
	s.project(`INSERT INTO stock_levels VALUES ('shirt', 7, 0, 0)`) // which is wrong

	r := s.get("/ops/projections")
	r.want(t, "list", 200, "")
	if list, _ := r.body["projections"].([]any); len(list) < 3 {
		t.Errorf("list: got %s", r.raw)
	}
	s.get("/ops/projections/nonsense").want(t, "an unknown projection", 404, "UNKNOWN_PROJECTION")
	const path = "/ops/projections/stock_levels"
	for _, what := range []string{"/drop-old", "/restore-old"} {
		s.post(path+what, "").want(t, what+" of nothing", 404, "NO_OLD_TABLES")
	}
	s.send("DELETE", path+"/rebuild", "").want(t, "cancel nothing", 404, "NO_REBUILD")

	r = s.post(path+"/rebuild", "")
	r.want(t, "rebuild", 202, "")
	if r.number("rebuild") != 1 || r.header.Get("Location") != path {
		t.Errorf("rebuild: got %s with %v", r.raw, r.header)
	}
	if state := s.awaitRebuild("stock_levels"); state != "failed" {
		t.Errorf("the table differs, and the rebuild is %s", state)
	}
	run, _ := s.get(path).body["rebuild"].(map[string]any)
	if text := fmt.Sprint(run["differences"]); len(text) < 100 {
		t.Errorf("the difference is not told: %v", run)
	}
	s.post(path+"/rebuild", `{"accept":true}`).want(t, "an unknown field", 400, "MALFORMED_BODY")
	s.post(path+"/rebuild", `{"accept_differences":true}`).want(t, "rebuild all the same", 202, "")
	if state := s.awaitRebuild("stock_levels"); state != "done" {
		t.Errorf("accepted, and the rebuild is %s", state)
	}
	available := func(want int) {
		t.Helper()
		var got int
		if err := s.postgres.QueryRow(s.ctx, `SELECT available FROM stock_levels`).Scan(&got); err != nil || got != want {
			t.Errorf("available: got %d (%v), want %d", got, err, want)
		}
	}
	available(5)
	if old, _ := s.get(path).body["old"].(map[string]any); old["seq"] != float64(1) {
		t.Errorf("the old tables: got %v, want them at seq 1", old)
	}
	s.post(path+"/rebuild", "").want(t, "rebuild over old tables", 409, "OLD_TABLES_KEPT")
	s.post(path+"/restore-old", "").want(t, "restore-old", 200, "")
	available(7)
	s.post(path+"/drop-old", "").want(t, "drop-old", 200, "")

	s.project(`CREATE VIEW seen AS SELECT * FROM stock_levels`)
	s.post(path+"/rebuild", "").want(t, "rebuild under a view", 409, "DEPENDENTS")
	s.project(`DROP VIEW seen`)
	s.project(`DELETE FROM events`)
	s.post(path+"/rebuild", "").want(t, "rebuild from a journal with a hole", 409, "JOURNAL_HOLE")
	s.project(`DROP TABLE rebuilds`)
	s.get("/ops/projections").want(t, "a schema that does not fit", 503, "NOT_READY")
}

// TestOpsCancel holds that a rebuild is cancelled by request, that a second one is refused meanwhile, and that what it
// is asked about another projection does not touch it.
func TestOpsCancel(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.project(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 0)`)
	// Whoever reads the table keeps the exchange waiting, and with it the rebuild.
	tx, err := s.postgres.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx) //nolint:errcheck // a reader's
	if _, err := tx.Exec(s.ctx, `SELECT FROM holds`); err != nil {
		t.Fatal(err)
	}
	s.post("/ops/projections/holds/rebuild", "").want(t, "rebuild", 202, "")
	s.post("/ops/projections/orders/rebuild", "").want(t, "a second one", 409, "REBUILD_RUNS")
	s.post("/ops/projections/orders/drop-old", "").want(t, "drop-old meanwhile", 409, "REBUILD_RUNS")
	s.send("DELETE", "/ops/projections/orders/rebuild", "").want(t, "cancel another one", 404, "NO_REBUILD")
	s.send("DELETE", "/ops/projections/holds/rebuild", "").want(t, "cancel", 202, "")
	if state := s.awaitRebuild("holds"); state != "cancelled" {
		t.Errorf("cancelled, and the rebuild is %s", state)
	}
}
