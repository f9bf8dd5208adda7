package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// benchLatency measures the time from a hold's 201 to its row in the table holds, at a
// constant rate. It watches every 40th hold with a query every 0.5 ms, so the figures are
// up to 0.5 ms too high.
func benchLatency(ctx context.Context, o options, s *servers) error {
	client, pool, closeBoth, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	if err := stockHotSKU(ctx, client); err != nil {
		return err
	}
	t, err := launchService(ctx, o, s, allRoles)
	if err != nil {
		return err
	}
	defer t.stop()
	w := &watcher{pool: pool}
	achieved, err := reserveAtRate(ctx, t.addr, o.rate, 5*o.seconds, w)
	if err != nil {
		return err
	}
	w.group.Wait()
	if len(w.took) == 0 {
		return errors.Join(errors.New("no hold was watched"), w.err)
	}
	slices.Sort(w.took)
	at := func(q float64) time.Duration {
		return w.took[int(q*float64(len(w.took)-1))].Round(100 * time.Microsecond)
	}
	fmt.Printf("\nfrom a hold's 201 to its row in holds, at %.0f reserves/s (target: %d), %d holds watched\n",
		achieved, o.rate, len(w.took))
	fmt.Printf("  p50 %s   p90 %s   p99 %s   max %s\n", at(0.5), at(0.9), at(0.99), at(1))
	return w.err
}

// reserveAtRate sends reservations at a constant rate: each at its due time, even if
// earlier answers are late.
func reserveAtRate(
	ctx context.Context, addr string, rate int, duration time.Duration, w *watcher,
) (achieved float64, err error) {
	const connections = 64
	slots := make(chan time.Time, rate) // at most one second's reservations wait for a connection
	var group sync.WaitGroup
	errs := make(chan error, connections)
	for range connections {
		c, err := dial(ctx, addr)
		if err != nil {
			return 0, err
		}
		group.Go(func() {
			defer c.conn.Close()
			for range slots {
				body, err := c.reserve()
				if err != nil {
					errs <- err
					return
				}
				w.watch(ctx, body)
			}
		})
	}
	began := time.Now()
	sent := 0
	for ; time.Since(began) < duration && ctx.Err() == nil; sent++ {
		due := began.Add(time.Duration(sent) * time.Second / time.Duration(rate))
		if wait := time.Until(due); wait > time.Millisecond {
			time.Sleep(wait)
		}
		slots <- due
	}
	achieved = float64(sent) / time.Since(began).Seconds()
	close(slots)
	group.Wait()
	close(errs)
	return achieved, <-errs
}

// watcher measures how long the rows of some holds take to appear in the table holds.
type watcher struct {
	pool  *pgxpool.Pool
	group sync.WaitGroup

	mu   sync.Mutex
	seen int
	took []time.Duration
	err  error
}

// watch takes the answer to a reservation, and measures every 40th one.
func (w *watcher) watch(ctx context.Context, body []byte) {
	answered := time.Now()
	w.mu.Lock()
	w.seen++
	watched := w.seen%40 == 0 && w.seen > 2000 // skips a warm-up of 2000 holds
	w.mu.Unlock()
	if !watched {
		return
	}
	w.group.Go(func() {
		var hold struct {
			HoldID string `json:"hold_id"`
		}
		err := json.Unmarshal(body, &hold)
		for found := false; err == nil && !found; {
			const query = `SELECT EXISTS (SELECT FROM holds WHERE hold_id = $1)`
			err = w.pool.QueryRow(ctx, query, hold.HoldID).Scan(&found)
			if !found {
				time.Sleep(500 * time.Microsecond)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.took = append(w.took, time.Since(answered))
		w.err = errors.Join(w.err, err)
	})
}
