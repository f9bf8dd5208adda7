package rebuild

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// TestRebuildUnderLoadEqualsPlainReplay rebuilds the built-in projections while events
// arrive and the live workers run. The new tables equal those of a plain replay, every
// read during the swap succeeds, and the workers continue without an error or a restart.
func TestRebuildUnderLoadEqualsPlainReplay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := projections.BuiltIn()
	for i := range 20 {
		f.appendEvents(holdEvents("old"+string(rune('a'+i)), 200)...)
	}
	f.project(all...)
	workers, stopWorkers := f.runWorkers(all...)
	stopAppending := f.appendInBackground()
	since := make([]time.Time, len(workers))
	for i, w := range workers {
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			s := w.Status()
			since[i] = s.Since
			return s.State == worker.Running, fmt.Sprintf("%+v", s)
		})
	}
	stopReading := f.readContinuously("olda-0")
	results, err := f.rebuild(f.rebuildConfig(), all...)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(all) {
		t.Fatalf("got %d results, want %d: %+v", len(results), len(all), results)
	}
	checkpoints := f.queryText(`SELECT sum(seq) FROM checkpoints WHERE projection <> 'journal'`)
	stopAppending()
	if reads := stopReading(); reads < 10 {
		t.Errorf("got %d reads during the rebuild, want at least 10 to show that none fails", reads)
	}
	f.awaitLevel(all...)
	for i, w := range workers {
		s := w.Status()
		if s.State != worker.Running {
			t.Errorf("worker %s: got state %s, want running", s.Name, s.State)
		}
		if s.Error != "" {
			t.Errorf("worker %s: got error %s, want none", s.Name, s.Error)
		}
		if !s.Since.Equal(since[i]) {
			t.Errorf("worker %s: runs since %s, want since %s", s.Name, s.Since, since[i])
		}
	}
	stopWorkers()
	t.Logf("swapped at %v; sum of the checkpoints then %s, of %d each at the end",
		results, checkpoints, f.seq)
	f.wantNoShadows(all...)
	f.wantSameAsReplay(all...)
	for i, r := range results {
		if r.Projection != all[i].Name {
			t.Errorf("result %d: got projection %s, want %s", i, r.Projection, all[i].Name)
		}
		if r.Seq == 0 {
			t.Errorf("result of %s: got seq 0", r.Projection)
		}
		old := f.schemas(r.Projection).old
		query := `SELECT seq FROM ` + quote(old) + `.checkpoints WHERE projection = $1`
		if f.queryText(query, r.Projection) == "" {
			t.Errorf("the old tables of %s are kept without their checkpoint", r.Projection)
		}
		if f.tableText(old, all[i].Tables[0]) == "" {
			t.Errorf("the old table of %s is empty", r.Projection)
		}
	}
	run := f.wantRuns("after the rebuild", Done)[0]
	if len(run.Swapped) != len(all) {
		t.Errorf("the run swapped %v, want all projections", run.Swapped)
	}
	if run.Done == 0 {
		t.Error("the run records no events as done")
	}
	if run.Finished.IsZero() {
		t.Error("the run has no time of its end")
	}
}

// readContinuously reads a confirmed hold and its order in a loop until stop is called.
// Every read must find both, since a rebuild causes no downtime.
func (f *fixture) readContinuously(hold string) (stop func() (reads int)) {
	conn := testenv.Connect(f.t, f.postgres)
	stopped := make(chan struct{})
	reads := 0
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-stopped:
				return
			default:
			}
			h, err := projections.FindHold(f.ctx, conn, "main", hold)
			if err == nil {
				_, err = projections.FindOrderOfHold(f.ctx, conn, "main", hold)
			}
			if err != nil || h.Status != "CONFIRMED" {
				f.t.Errorf("read %d: got %+v (%v), want the confirmed hold and its order", reads, h, err)
				return
			}
			reads++
		}
	})
	return func() int {
		close(stopped)
		done.Wait()
		return reads
	}
}

// wantSameAsReplay checks that the live tables equal those that the live workers of
// another fixture make from the same journal.
func (f *fixture) wantSameAsReplay(list ...projections.Projection) {
	f.t.Helper()
	other := newFixture(f.t)
	other.exec(`INSERT INTO events SELECT * FROM ` + quote(f.liveSchema()) + `.events`)
	other.exec(`INSERT INTO checkpoints SELECT * FROM ` + quote(f.liveSchema()) +
		`.checkpoints WHERE projection = 'journal'`)
	other.seq = f.seq
	other.project(list...)
	for _, projection := range list {
		for _, table := range projection.Tables {
			got := f.tableText(f.liveSchema(), table)
			want := other.tableText(other.liveSchema(), table)
			if got != want {
				f.t.Errorf("table %s: its %d rows differ from the %d rows of a plain replay",
					table, strings.Count(got, "\n")+1, strings.Count(want, "\n")+1)
			}
		}
	}
}
