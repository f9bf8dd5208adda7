package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// watcher is somebody who follows the journal.
type watcher struct {
	mu   sync.Mutex
	seqs []int64
	told []string
	done chan error
	stop context.CancelFunc
}

func (p *plant) follow(q HistoryQuery, take func([]Recorded) error) *watcher {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	w := &watcher{done: make(chan error, 1), stop: cancel}
	q.Pool = "main"
	if q.Limit == 0 {
		q.Limit = 3
	}
	tell := func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told = append(w.told, err.Error())
	}
	go func() {
		w.done <- Follow(ctx, p.config, q, tell, func(page []Recorded) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, e := range page {
				w.seqs = append(w.seqs, e.Seq)
			}
			if take != nil {
				return take(page)
			}
			return nil
		})
	}()
	p.t.Cleanup(cancel)
	return w
}

func (w *watcher) seen() (seqs []int64, told []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seqs), slices.Clone(w.told)
}

func (w *watcher) await(t *testing.T, want ...int64) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		seqs, told := w.seen()
		return slices.Equal(seqs, want), fmt.Sprintf("seen %v, want %v; told %q", seqs, want, told)
	})
}

// awaitFollowers waits until so many sessions with the application name follower have begun to follow.
func (p *plant) awaitFollowers(want int) {
	p.t.Helper()
	testenv.Eventually(p.t, 10*time.Second, func() (bool, string) {
		var got int
		const query = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'follower' AND state = 'idle' AND query LIKE '%ORDER BY seq LIMIT%'`
		err := p.db.QueryRow(p.ctx, query).Scan(&got)
		return got == want, fmt.Sprintf("%d sessions follow (%v), want %d", got, err, want)
	})
}

// TestFollowThroughRestarts holds that who follows sees every event once and in order, from now on, through a Postgres
// that is killed while events come.
func TestFollowThroughRestarts(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	testenv.Migrate(t, postgres.URL())
	p := newPlantOn(t, postgres.URL())
	p.config.RuntimeParams["application_name"] = "follower"
	p.journal(2)
	p.append(5)
	p.awaitJournal(5)
	w, all := p.follow(HistoryQuery{After: FromNow}, nil), p.follow(HistoryQuery{}, nil)
	all.await(t, 1, 2, 3, 4, 5)
	p.awaitFollowers(2)
	p.append(3)
	w.await(t, 6, 7, 8)
	for range 2 {
		if err := postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		p.append(4)
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			_, told := w.seen()
			return len(told) > 0, "the follower has not noticed"
		})
		if err := postgres.Start(p.ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.await(t, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	all.await(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	for _, each := range []*watcher{w, all} {
		each.stop()
		if err := <-each.done; err != nil {
			t.Errorf("stopped: got %v, want nil", err)
		}
	}
}

// TestFollowNarrowed holds that what is passed over is not looked at again, and does not end the page.
func TestFollowNarrowed(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.record(400)
	w := p.follow(HistoryQuery{After: 100, Type: events.TypeStockAdjusted}, nil)
	w.await(t, 194, 291, 388)
	if _, err := p.db.Exec(p.ctx, `
		INSERT INTO events SELECT pool, seq + 97, gen_random_uuid(), type, sku, hold_id, payload, metadata, at FROM events WHERE seq > 303`); err != nil {
		t.Fatal(err)
	}
	p.journalEndsAt(497) // nobody notifies: the poll finds it
	w.await(t, 194, 291, 388, 485)
}

// TestFollowEnds holds when following ends by itself, and with what.
func TestFollowEnds(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.record(20)
	broken := errors.New("broken pipe")
	if err := <-p.follow(HistoryQuery{}, func([]Recorded) error { return broken }).done; !errors.Is(err, broken) {
		t.Errorf("who takes fails: got %v", err)
	}
	shrinks := p.follow(HistoryQuery{After: 18}, nil)
	shrinks.await(t, 19, 20)
	p.journalEndsAt(19)
	if err := <-shrinks.done; !errors.Is(err, ErrRewritten) {
		t.Errorf("a journal that was set back: got %v, want ErrRewritten", err)
	}
	if _, err := p.db.Exec(p.ctx, `DELETE FROM events WHERE seq <= 10`); err != nil {
		t.Fatal(err)
	}
	if err := <-p.follow(HistoryQuery{After: 5}, nil).done; !errors.Is(err, ErrDetached) {
		t.Errorf("after what was detached: got %v, want ErrDetached", err)
	}
	p.config = p.config.Copy()
	p.config.Host, p.config.Port = "127.0.0.1", 1
	if err := <-p.follow(HistoryQuery{}, nil).done; err == nil {
		t.Error("a Postgres that is not there: got no error")
	}
}
