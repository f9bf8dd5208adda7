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

// projection returns the status that `projections show` prints for one projection.
func (s *fixture) projection(name string) (found rebuild.Status) {
	s.t.Helper()
	out, err := s.cli("projections", "show", name, "-o", "json")
	if err != nil {
		s.t.Fatalf("show %s: %v", name, err)
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		s.t.Fatalf("show %s: %v in %q", name, err, out)
	}
	return found
}

// TestProjectionsCommandsOfARebuild runs every `projections` command while a service
// runs: a clean rebuild, a rebuild of a table that was tampered with, restore-old and
// drop-old.
func TestProjectionsCommandsOfARebuild(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 50, 0)
	for i := range 20 {
		v.mustReserve("shirt", fmt.Sprint("k", i), 1, 60)
	}
	s.awaitCaughtUp()
	all := projections.BuiltIn()

	out := s.wantOutput("projections list", "stock_levels  21")
	if got, want := strings.Count(out, "\n"), len(all)+1; got != want {
		t.Errorf("list: got %d lines, want %d:\n%s", got, want, out)
	}
	out = s.wantOutput("projections rebuild holds orders", `{"outcomes":[{"projection":"holds","seq":21,"resolved":0,"parked":0},`+
		`{"projection":"orders","seq":21,"resolved":0,"parked":0}]}`)
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("rebuild printed %q, want JSON, since the output is no terminal", line)
		}
	}
	if got := queryValue[int](s, `SELECT count(*) FROM holds`); got != 20 {
		t.Errorf("holds after the rebuild: got %d, want 20", got)
	}
	holds := s.projection("holds")
	if holds.Old == nil || holds.Old.Seq != 21 {
		t.Errorf("show holds: got old tables %+v, want them at seq 21", holds.Old)
	}
	if holds.Checkpoint != 21 {
		t.Errorf("show holds: got checkpoint %d, want 21", holds.Checkpoint)
	}
	if holds.Run == nil || holds.Run.State != rebuild.Done {
		t.Errorf("show holds: got run %+v, want a finished one", holds.Run)
	}
	untouched := s.projection("stock_levels")
	if untouched.Old != nil {
		t.Errorf("show stock_levels: got old tables %+v, want none", untouched.Old)
	}
	if untouched.Run != nil {
		t.Errorf("show stock_levels: got run %+v, want none", untouched.Run)
	}

	s.exec(`UPDATE stock_levels SET sold = sold + 1, held = held - 1`)
	out, err := s.runFailing("projections rebuild stock_levels", "--accept-differences")
	if differs := new(rebuild.DifferencesError); !errors.As(err, &differs) {
		t.Errorf("rebuild of a table that was tampered with: got %v, want a DifferencesError", err)
	}
	if want := `"key":"(main,shirt)"`; !strings.Contains(out, want) {
		t.Errorf("rebuild of a table that was tampered with: printed %q, want the differing key %s",
			out, want)
	}
	s.wantOutput("projections show stock_levels",
		`live {"sku":"shirt","available":30,"held":19,"sold":1,"pool":"main"}`, "failed")
	s.wantOutput("projections rebuild stock_levels --accept-differences",
		`{"accepted_differences":[{"projection":"stock_levels"`)
	if got := queryValue[int](s, `SELECT held FROM stock_levels`); got != 20 {
		t.Errorf("held units after the rebuild: got %d, want 20", got)
	}
	s.wantOutput("projections restore-old stock_levels", "are at seq 21")
	if got := queryValue[int](s, `SELECT held FROM stock_levels`); got != 19 {
		t.Errorf("held units after restore-old: got %d, want 19", got)
	}
	s.wantOutput("projections drop-old stock_levels", "dropped")

	out, err = s.runFailing("projections drop-old orders stock_levels holds")
	if !errors.Is(err, rebuild.ErrNoOldTables) {
		t.Errorf("drop-old of three: got %v, want ErrNoOldTables for stock_levels", err)
	}
	for _, name := range []string{"orders", "holds"} {
		if want := "of " + name + " are dropped"; !strings.Contains(out, want) {
			t.Errorf("drop-old of three: printed %q, want %q", out, want)
		}
	}
	for _, command := range []string{
		"rebuild nonsense", "rebuild", "rebuild holds --all", "rebuild holds holds", "show nonsense", "show",
		"drop-old",
		"drop-old stock_levels", "restore-old stock_levels", "cancel", "list -o xml",
	} {
		s.wantError("projections " + command)
	}
}

// TestProgressBar checks the line that a terminal shows.
func TestProgressBar(t *testing.T) {
	t.Parallel()
	got := bar(rebuild.Progress{
		Step:   rebuild.StepReplay,
		Done:   500,
		Total:  1000,
		Rate:   100,
		ETA:    5 * time.Second,
		Paused: true,
	})
	if want := "replaying  [###############...............] 500 of 1000 events, 100/s, 5s left, paused"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// fillJournal writes deliveries and holds directly into the journal, and waits until they
// are projected.
func (s *fixture) fillJournal(holds int) {
	s.t.Helper()
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', seq, gen_random_uuid(), type, 'shirt', hold, payload || jsonb_build_object('hold_id', hold, 'sku', 'shirt', 'qty', 1, 'user_id', 'ann'), '{}', now()
		FROM generate_series(1, $1::int) AS n, LATERAL (VALUES (2 * n - 1, 'STOCK_ADJUSTED', '{"delta":1,"reason":"r"}'::jsonb),
		     (2 * n, 'HOLD_CREATED', '{"ttl_ms":60000,"idempotency_key":"k"}'::jsonb)) AS e (seq, type, payload), LATERAL (SELECT CASE type WHEN 'HOLD_CREATED' THEN 'h' || n ELSE '' END) AS h (hold)
		ORDER BY seq`
	for _, sql := range []string{query,
		`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', 2 * $1::int)`} {
		if _, err := s.db.Exec(s.ctx, sql, holds); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.db.Exec(s.ctx, `INSERT INTO pools (pool, epoch) VALUES ('main', 1)`); err != nil {
		s.t.Fatal(err)
	}
	s.serve("--roles", "projections").awaitReady()
	testenv.Eventually(s.t, 60*time.Second, func() (bool, string) {
		behind := queryValue[int](s, `SELECT 1 + $2 - count(*) FROM checkpoints WHERE seq = 2 * $1::int`,
			holds, len(projections.BuiltIn()))
		return behind == 0, fmt.Sprint(behind, " projections are behind")
	})
}

// TestKillRebuildKeepsTheReadTables kills a rebuild with SIGKILL at ten random moments.
// Before and after the swap, the read tables have the same rows as before, and the next
// rebuild succeeds.
func TestKillRebuildKeepsTheReadTables(t *testing.T) {
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
	interrupted, swapped := 0, 0
	for range 10 {
		cmd := exec.Command(self, "projections", "rebuild", "--all")
		cmd.Env = append(s.environ(), asProgram+"=1")
		var log testenv.LogBuffer
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
			t.Fatalf("the read tables changed from %s to %s\n%s", before, after, &log)
		}
		// Postgres notices a moment later that the killed process's sessions have ended.
		testenv.Eventually(t, 30*time.Second, func() (bool, string) {
			runs, err := rebuild.List(s.ctx, s.db, 1)
			return err == nil && (len(runs) == 0 || runs[0].State != rebuild.Running), fmt.Sprint(runs, err)
		})
		swapped += dropOld()
	}
	t.Logf("a whole rebuild took %s; %d of 10 were interrupted, %d projections were swapped",
		whole, interrupted, swapped)
	if interrupted == 0 {
		t.Error("no rebuild was interrupted, want at least one")
	}
	s.wantOutput("projections rebuild --all")
	if after := queryValue[string](s, rows); after != before {
		t.Errorf("the last rebuild changed the read tables from %s to %s", before, after)
	}
}
