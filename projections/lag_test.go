package projections

import (
	"testing"
	"time"
)

func TestReadLagCountsEventsBehindTheJournal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(created("a", 1), created("b", 1), created("c", 1))
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 2), ('orders', 'main', 3)`)
	lags, err := ReadLag(f.ctx, f.db, "main", BuiltIn()...)
	if err != nil {
		t.Fatal(err)
	}
	if len(lags) != len(BuiltIn()) {
		t.Fatalf("got %+v, want one lag per projection", lags)
	}
	for i, want := range []int64{1, 0, 3, 3} {
		lag := lags[i]
		if lag.Events != want {
			t.Errorf("%s: got %d events behind, want %d", lag.Projection, lag.Events, want)
		}
		if isOld := lag.Age > time.Hour; isOld != (want > 0) { // the events are of 2025
			t.Errorf("%s: got age %s, want more than an hour: %t", lag.Projection, lag.Age, want > 0)
		}
	}
}
