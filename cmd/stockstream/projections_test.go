package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// projection returns what `projections show` says of one.
func (s *fixture) projection(name string) (found rebuild.Status) {
	s.t.Helper()
	out, err := s.cli("projections", "show", name, "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &found) != nil {
		s.t.Fatalf("show %s: got %q (%v)", name, out, err)
	}
	return found
}

// TestProjectionsCommands goes through the life of a rebuild as an operator does, beside a service that sells.
func TestProjectionsCommands(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 50, 0)
	for i := range 20 {
		if status, _, err := v.reserve("shirt", fmt.Sprint("k", i), 1, 60); status != 201 || err != nil {
			t.Fatal(status, err)
		}
	}
	s.awaitCaughtUp()
	all := projections.BuiltIn()

	out, err := s.cli("projections", "list")
	if err != nil || strings.Count(out, "\n") != len(all)+1 || !strings.Contains(out, "stock_levels  21") {
		t.Errorf("list: got %q (%v)", out, err)
	}
	out, err = s.cli("projections", "rebuild", "holds", "orders")
	if err != nil || !strings.Contains(out, `{"outcomes":[{"projection":"holds","seq":21,"resolved":0,"parked":0},{"projection":"orders","seq":21,"resolved":0,"parked":0}]}`) {
		t.Errorf("rebuild: got %q (%v)", out, err)
	}
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not on a terminal, a line that is no JSON: %q", line)
		}
	}
	if got := queryValue[int](s, `SELECT count(*) FROM holds`); got != 20 {
		t.Errorf("%d holds after the rebuild, want 20", got)
	}
	if got := s.projection("holds"); got.Old == nil || got.Old.Seq != 21 || got.Checkpoint != 21 || got.Run == nil || got.Run.State != rebuild.Done {
		t.Errorf("show holds: got %+v", got)
	}
	if got := s.projection("stock_levels"); got.Old != nil || got.Run != nil {
		t.Errorf("show stock_levels: got %+v, want it untouched", got)
	}

	if _, err := s.db.Exec(s.ctx, `UPDATE stock_levels SET sold = sold + 1, held = held - 1`); err != nil {
		t.Fatal(err)
	}
	out, err = s.cli("projections", "rebuild", "stock_levels")
	if !errors.Is(err, rebuild.ErrDiffers) || !strings.Contains(err.Error(), "--accept-differences") || !strings.Contains(out, `"key":"shirt"`) {
		t.Errorf("rebuild of a table that was tampered with: got %q (%v)", out, err)
	}
	if out, err := s.cli("projections", "show", "stock_levels"); err != nil || !strings.Contains(out, `live {"sku":"shirt","available":30,"held":19,"sold":1}`) || !strings.Contains(out, "failed") {
		t.Errorf("show its differences: got %q (%v)", out, err)
	}
	if out, err := s.cli("projections", "rebuild", "stock_levels", "--accept-differences"); err != nil || !strings.Contains(out, `{"accepted_differences":[{"projection":"stock_levels"`) {
		t.Errorf("rebuild that accepts: got %q (%v), want what it accepted", out, err)
	}
	if got := queryValue[int](s, `SELECT held FROM stock_levels`); got != 20 {
		t.Errorf("%d units held, want 20", got)
	}
	if out, err := s.cli("projections", "restore-old", "stock_levels"); err != nil || !strings.Contains(out, "are at seq 21") || queryValue[int](s, `SELECT held FROM stock_levels`) != 19 {
		t.Errorf("restore-old: got %q (%v)", out, err)
	}
	if out, err := s.cli("projections", "drop-old", "stock_levels"); err != nil || !strings.Contains(out, "dropped") {
		t.Errorf("drop-old: got %q (%v)", out, err)
	}
	if out, err := s.cli("projections", "drop-old", "orders", "stock_levels", "holds"); !errors.Is(err, rebuild.ErrNoOldTables) ||
		!strings.Contains(out, "of orders are dropped") || !strings.Contains(out, "of holds are dropped") {
		t.Errorf("drop-old of three, one of which has none: got %q (%v)", out, err)
	}
	for _, args := range []string{"rebuild nonsense", "rebuild", "rebuild holds --all", "rebuild holds holds", "show nonsense", "drop-old", "show", "drop-old stock_levels", "restore-old stock_levels", "cancel", "list -o xml"} {
		if out, err := s.cli(append([]string{"projections"}, strings.Fields(args)...)...); err == nil {
			t.Errorf("projections %s: got %q, want an error", args, out)
		}
	}
}

// TestBar holds what a terminal shows.
func TestBar(t *testing.T) {
	t.Parallel()
	got := bar(rebuild.Progress{Step: rebuild.StepReplay, Done: 500, Total: 1000, Rate: 100, ETA: 5 * time.Second, Paused: true})
	if want := "replaying  [###############...............] 500 of 1000 events, 100/s, 5s left, paused"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// fillJournal writes holds straight into the journal, each of which ends, and brings the read tables level.
func (s *fixture) fillJournal(holds int) {
	s.t.Helper()
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', seq, gen_random_uuid(), type, 'shirt', hold, payload || jsonb_build_object('hold_id', hold, 'sku', 'shirt', 'qty', 1, 'user_id', 'ann'), '{}', now()
		FROM generate_series(1, $1::int) AS n, LATERAL (VALUES (2 * n - 1, 'STOCK_ADJUSTED', '{"delta":1,"reason":"r"}'::jsonb),
		     (2 * n, 'HOLD_CREATED', '{"ttl_ms":60000,"idempotency_key":"k"}'::jsonb)) AS e (seq, type, payload), LATERAL (SELECT CASE type WHEN 'HOLD_CREATED' THEN 'h' || n ELSE '' END) AS h (hold)
		ORDER BY seq`
	for _, sql := range []string{query, `INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', 2 * $1::int)`} {
		if _, err := s.db.Exec(s.ctx, sql, holds); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.db.Exec(s.ctx, `INSERT INTO pools (pool, epoch) VALUES ('main', 1)`); err != nil {
		s.t.Fatal(err)
	}
	s.serve("--roles", "projections").awaitReady()
	testenv.Eventually(s.t, 60*time.Second, func() (bool, string) {
		behind := queryValue[int](s, `SELECT 1 + $2 - count(*) FROM checkpoints WHERE seq = 2 * $1::int`, holds, len(projections.BuiltIn()))
		return behind == 0, fmt.Sprint(behind, " projections are behind")
	})
}

// TestKillRebuild kills a rebuild with -9 at ten moments of chance. What serves is what it was, row by row, whether or
// not the exchange had happened, and the next one works.
func TestKillRebuild(t *testing.T) {
	t.Parallel()
	const holds = 20_000
	s := newFixture(t)
	s.fillJournal(holds)
	const rows = `SELECT (SELECT sum(hashtextextended(t::text, 0)) || ' ' || count(*) FROM holds t) || ' ' || (SELECT sum(hashtextextended(t::text, 0)) || ' ' || count(*) FROM stock_levels t)`
	before := queryValue[string](s, rows)
	began := time.Now()
	if out, err := s.cli("projections", "rebuild", "--all"); err != nil {
		t.Fatal(err, out)
	}
	whole := time.Since(began)
	dropOld := func() (dropped int) {
		for _, p := range projections.BuiltIn() {
			_, err := s.cli("projections", "drop-old", p.Name)
			switch {
			case err == nil:
				dropped++
			case !errors.Is(err, rebuild.ErrNoOldTables):
				t.Fatal(err)
			}
		}
		return dropped
	}
	dropOld()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	interrupted, exchanged := 0, 0
	for range 10 {
		cmd := exec.Command(self, "projections", "rebuild", "--all")
		cmd.Env = append(s.environ(), asProgram+"=1")
		var log syncBuffer
		cmd.Stdout, cmd.Stderr = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(rand.N(whole + whole/4))
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err != nil {
			interrupted++
		}
		if after := queryValue[string](s, rows); after != before {
			t.Fatalf("what serves was changed from %s to %s\n%s", before, after, &log)
		}
		// Its sessions end a moment after it.
		testenv.Eventually(t, 30*time.Second, func() (bool, string) {
			runs, err := rebuild.List(s.ctx, s.db, 1)
			return err == nil && (len(runs) == 0 || runs[0].State != rebuild.Running), fmt.Sprint(runs, err)
		})
		exchanged += dropOld()
	}
	t.Logf("a whole rebuild took %s; %d of 10 were interrupted, %d tables were exchanged", whole, interrupted, exchanged)
	if interrupted == 0 {
		t.Error("none was interrupted; that shows nothing")
	}
	if out, err := s.cli("projections", "rebuild", "--all"); err != nil || queryValue[string](s, rows) != before {
		t.Errorf("the last one: got %v\n%s", err, out)
	}
}
