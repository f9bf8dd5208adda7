package httpapi

import (
	"fmt"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// awaitRebuild waits until the newest rebuild of a projection has ended, and returns its
// state.
func (s *testServer) awaitRebuild(name string) (state string) {
	s.t.Helper()
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		r := s.get("/ops/projections/" + name)
		run, _ := r.body["rebuild"].(map[string]any)
		state, _ = run["state"].(string)
		return state != "" && state != "running", r.raw
	})
	return state
}

// TestRebuildThroughTheAPI goes through these steps: a rebuild fails because its table
// differs, another accepts the differences, and the old tables are restored and dropped.
// It also checks the refusals.
func TestRebuildThroughTheAPI(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.exec(`INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		VALUES ('main', 1, gen_random_uuid(), 'STOCK_ADJUSTED', 'shirt', '', '{"sku":"shirt","delta":5,"reason":"r"}', '{}', now())`)
	s.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', 1), ('stock_levels', 'main', 1)`)
	s.exec(`INSERT INTO stock_levels VALUES ('shirt', 7, 0, 0, 'main')`) // the events add up to 5

	r := s.get("/ops/projections")
	r.want(t, "list", 200, "")
	if list, _ := r.body["projections"].([]any); len(list) < 3 {
		t.Errorf("list: got %s, want at least three projections", r.raw)
	}
	s.get("/ops/projections/nonsense").want(t, "an unknown projection", 404, "UNKNOWN_PROJECTION")
	const path = "/ops/projections/stock_levels"
	for _, action := range []string{"/drop-old", "/restore-old"} {
		s.post(path+action, "").want(t, action+" without old tables", 404, "NO_OLD_TABLES")
	}
	s.send("DELETE", path+"/rebuild", "").want(t, "cancel without a rebuild", 404, "NO_REBUILD")

	r = s.post(path+"/rebuild", "")
	r.want(t, "rebuild", 202, "")
	r.wantNumber(t, "rebuild", "rebuild", 1)
	r.wantHeader(t, "rebuild", "Location", path)
	if state := s.awaitRebuild("stock_levels"); state != "failed" {
		t.Errorf("state of a rebuild whose table differs: got %s, want failed", state)
	}
	run, _ := s.get(path).body["rebuild"].(map[string]any)
	if text := fmt.Sprint(run["differences"]); len(text) < 100 {
		t.Errorf("the rebuild does not show the differences: %v", run)
	}
	s.post(path+"/rebuild", `{"accept":true}`).want(t, "an unknown field", 400, "MALFORMED_BODY")
	s.post(path+"/rebuild", `{"accept_differences":true}`).want(t, "rebuild and accept the differences",
		202, "")
	if state := s.awaitRebuild("stock_levels"); state != "done" {
		t.Errorf("state of a rebuild that accepts differences: got %s, want done", state)
	}
	wantAvailable := func(want int) {
		t.Helper()
		var got int
		if err := s.postgres.QueryRow(s.ctx, `SELECT available FROM stock_levels`).Scan(&got); err != nil {
			t.Error(err)
		}
		if got != want {
			t.Errorf("available: got %d, want %d", got, want)
		}
	}
	wantAvailable(5)
	if old, _ := s.get(path).body["old"].(map[string]any); old["seq"] != float64(1) {
		t.Errorf("the old tables: got %v, want them at seq 1", old)
	}
	s.post(path+"/rebuild", "").want(t, "rebuild while old tables are kept", 409, "OLD_TABLES_KEPT")
	s.post(path+"/restore-old", "").want(t, "restore-old", 200, "")
	wantAvailable(7)
	s.post(path+"/drop-old", "").want(t, "drop-old", 200, "")

	s.exec(`CREATE VIEW seen AS SELECT * FROM stock_levels`)
	s.post(path+"/rebuild", "").want(t, "rebuild of a table that a view uses", 409, "DEPENDENTS")
	s.exec(`DROP VIEW seen`)
	s.exec(`DELETE FROM events`)
	s.post(path+"/rebuild", "").want(t, "rebuild from a journal with a hole", 409, "JOURNAL_HOLE")
	s.exec(`DROP TABLE rebuilds`)
	s.get("/ops/projections").want(t, "a schema that does not match this build", 503, "NOT_READY")
}

// TestCancelRebuildThroughTheAPI checks that a running rebuild can be cancelled, that
// other rebuilds are refused while it runs, and that a request about another projection
// does not cancel it.
func TestCancelRebuildThroughTheAPI(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 0)`)
	// A transaction that has read the table delays the swap, and so keeps the rebuild
	// running.
	tx, err := s.postgres.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx) //nolint:errcheck // it only reads
	if _, err := tx.Exec(s.ctx, `SELECT FROM holds`); err != nil {
		t.Fatal(err)
	}
	s.post("/ops/projections/holds/rebuild", "").want(t, "rebuild", 202, "")
	s.post("/ops/projections/orders/rebuild", "").want(t, "rebuild another projection", 409, "REBUILD_RUNS")
	s.post("/ops/projections/orders/drop-old", "").want(t, "drop-old during a rebuild", 409, "REBUILD_RUNS")
	s.send("DELETE", "/ops/projections/orders/rebuild", "").want(t, "cancel for another projection",
		404, "NO_REBUILD")
	s.send("DELETE", "/ops/projections/holds/rebuild", "").want(t, "cancel", 202, "")
	if state := s.awaitRebuild("holds"); state != "cancelled" {
		t.Errorf("state of the cancelled rebuild: got %s, want cancelled", state)
	}
}
