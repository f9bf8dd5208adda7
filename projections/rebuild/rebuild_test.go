package rebuild

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// TestRebuildUnderLoad rebuilds the built-in projections while events come and the live lines work. The new tables are
// the old ones, row by row, and the lines go on with them as if nothing had been.
func TestRebuildUnderLoad(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	all := projections.BuiltIn()
	for i := range 20 {
		p.journal(holdEvents("old"+string(rune('a'+i)), 200)...)
	}
	p.project(all...)
	lines, stopLines := p.runWorkers(all...)
	stop := p.appendInBackground()
	since := make([]time.Time, len(lines))
	for i, line := range lines {
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			s := line.Status()
			since[i] = s.Since
			return s.State == events.LineRunning, fmt.Sprintf("%+v", s)
		})
	}
	stopReading := p.readContinuously("olda-0")
	outcomes, err := p.rebuild(p.rebuildConfig(), all...)
	if err != nil || len(outcomes) != len(all) {
		t.Fatal(outcomes, err)
	}
	before := p.queryText(`SELECT sum(seq) FROM checkpoints WHERE projection <> 'journal'`)
	stop()
	if reads := stopReading(); reads < 10 {
		t.Errorf("only %d reads; that shows nothing", reads)
	}
	p.awaitLevel(all...)
	for i, line := range lines {
		if s := line.Status(); s.State != events.LineRunning || s.Error != "" || !s.Since.Equal(since[i]) {
			t.Errorf("the line %s: got %+v, want it running as it has been since %s", s.Name, s, since[i])
		}
	}
	stopLines()
	t.Logf("exchanged at %v; checkpoints then %s of %d each", outcomes, before, p.seq)
	p.wantNoShadows(all...)
	p.wantSameAsReplay(all...)
	for i, o := range outcomes {
		h := p.schemas(o.Projection)
		if o.Projection != all[i].Name || o.Seq == 0 || p.queryText(`SELECT seq FROM `+quote(h.old)+`.checkpoints WHERE projection = $1`, o.Projection) == "" {
			t.Errorf("outcome %+v: want the old tables kept, with their checkpoint", o)
		}
		if got := p.tableText(h.old, all[i].Tables[0]); got == "" {
			t.Errorf("the old table of %s is empty", o.Projection)
		}
	}
	runs, err := List(p.ctx, p.db, 10)
	if err != nil || len(runs) != 1 || runs[0].State != Done || len(runs[0].Swapped) != len(all) || runs[0].Done == 0 || runs[0].Finished.IsZero() {
		t.Errorf("runs: got %+v (%v)", runs, err)
	}
}

// readContinuously looks at a confirmed hold and its order, over and over, until the returned function is called. Each look must
// find them: that is what no downtime means.
func (p *fixture) readContinuously(hold string) (stop func() (reads int)) {
	conn := testenv.Connect(p.t, p.postgres)
	ending, reads := make(chan struct{}), 0
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ending:
				return
			default:
			}
			h, err := projections.FindHold(p.ctx, conn, hold)
			if err == nil {
				_, err = projections.FindOrderOfHold(p.ctx, conn, hold)
			}
			if err != nil || h.Status != "CONFIRMED" {
				p.t.Errorf("read %d: got %+v (%v)", reads, h, err)
				return
			}
			reads++
		}
	})
	return func() int {
		close(ending)
		done.Wait()
		return reads
	}
}

// wantSameAsReplay compares the live tables with what another plant makes of the same journal from its beginning.
func (p *fixture) wantSameAsReplay(list ...projections.Projection) {
	p.t.Helper()
	other := newFixture(p.t)
	other.exec(`INSERT INTO events SELECT * FROM ` + quote(p.liveSchema()) + `.events`)
	other.exec(`INSERT INTO checkpoints SELECT * FROM ` + quote(p.liveSchema()) + `.checkpoints WHERE projection = 'journal'`)
	other.seq = p.seq
	other.project(list...)
	for _, projection := range list {
		for _, table := range projection.Tables {
			got, want := p.tableText(p.liveSchema(), table), other.tableText(other.liveSchema(), table)
			if got != want {
				p.t.Errorf("%s: %d rows that differ from the %d of a plain replay", table, strings.Count(got, "\n")+1, strings.Count(want, "\n")+1)
			}
		}
	}
}
