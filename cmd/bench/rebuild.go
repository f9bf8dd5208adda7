package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// rebuiltProjections are the projections that are rebuilt together.
var rebuiltProjections = []string{"holds", "orders", "stock_levels"}

// benchRebuild measures a rebuild of three projections from a long journal: its speed,
// the memory of its process, and the lag of the read tables while the service sells and
// rebuilds run one after the other.
func benchRebuild(ctx context.Context, o options, s *servers) error {
	pool, err := pgxpool.New(ctx, s.postgres.URL())
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := writeHistory(ctx, pool, o.history, o.history/10); err != nil {
		return err
	}
	if _, err := timeProjections(ctx, pool, o.history); err != nil {
		return err
	}
	var whole, replay, memory []float64
	for range min(o.rounds, 3) {
		began := time.Now()
		peak, err := rebuildAll(ctx, o, s)
		if err != nil {
			return err
		}
		whole = append(whole, float64(o.history)/time.Since(began).Seconds())
		memory = append(memory, peak)
		runs, err := rebuild.List(ctx, pool, 1)
		if err != nil {
			return err
		}
		replay = append(replay, float64(o.history)/runs[0].Finished.Sub(runs[0].Started).Seconds())
		if err := dropOld(ctx, pool); err != nil {
			return err
		}
	}
	fmt.Printf("\nrebuild of %d projections together, from a journal of %d events\n",
		len(rebuiltProjections), o.history)
	fmt.Printf("  events/s, with comparison, swap and start of the process           %8.0f\n", median(whole))
	fmt.Printf("  events/s, with comparison and swap                                 %8.0f\n", median(replay))
	fmt.Printf("  peak memory of the process, MiB                                    %8.0f\n", median(memory))
	printGoal("rebuild, in thousands of events/s", median(replay)/1000, 100)
	printGoal("300 MiB / peak memory", 300/median(memory), 1)
	return rebuildUnderLoad(ctx, o, s, pool)
}

// rebuildAll runs `stockstream projections rebuild` and returns the peak memory of its
// process in MiB.
func rebuildAll(ctx context.Context, o options, s *servers) (peakMiB float64, err error) {
	args := slices.Concat([]string{"projections", "rebuild"}, rebuiltProjections,
		[]string{"--database-url", s.postgres.URL()})
	cmd := exec.CommandContext(ctx, o.binary, args...) //nolint:gosec // our own program
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, lastLine(out.Bytes()))
	}
	usage, known := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !known {
		return 0, errors.New("this system does not report the peak memory of a process")
	}
	return float64(usage.Maxrss) / 1024, nil
}

func lastLine(out []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return lines[len(lines)-1]
}

func dropOld(ctx context.Context, pool *pgxpool.Pool) error {
	list, err := projections.Named(rebuiltProjections...)
	if err != nil {
		return err
	}
	config := rebuild.Config{Postgres: pool.Config().ConnConfig, Pool: events.MainPool}
	for _, p := range list {
		if err := rebuild.DropOld(ctx, config, p); err != nil {
			return err
		}
	}
	return nil
}

// rebuildUnderLoad sells at a constant rate while rebuilds run, and measures the time
// from a hold's 201 to its row in the table holds.
func rebuildUnderLoad(ctx context.Context, o options, s *servers, pool *pgxpool.Pool) error {
	client := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer client.Close()
	// Redis's log head is set to the journal's end, so that the service does not restore
	// Redis first.
	err := errors.Join(client.FlushAll(ctx).Err(),
		client.HSet(ctx, events.MainPool.MetaKey(), "epoch", 1, "seq", o.history).Err(),
		stockHotSKU(ctx, client))
	if err != nil {
		return err
	}
	t, err := launchService(ctx, o, s, allRoles)
	if err != nil {
		return err
	}
	defer t.stop()
	const rate = 1000
	w := &watcher{pool: pool}
	selling := make(chan error, 1)
	go func() {
		_, err := reserveAtRate(ctx, t.addr, rate, 6*o.seconds, w)
		selling <- err
	}()
	rebuilds := 0
	for ended := false; !ended; {
		if _, err := rebuildAll(ctx, o, s); err != nil {
			return errors.Join(err, <-selling)
		}
		if err := dropOld(ctx, pool); err != nil {
			return errors.Join(err, <-selling)
		}
		rebuilds++
		select {
		case err = <-selling:
			ended = true
		default:
		}
	}
	w.group.Wait()
	if err = errors.Join(err, w.err); err != nil || len(w.took) == 0 {
		return errors.Join(err, errors.New("no hold was watched; sell longer"))
	}
	slices.Sort(w.took)
	at := func(q float64) time.Duration {
		return w.took[int(q*float64(len(w.took)-1))].Round(time.Millisecond)
	}
	fmt.Printf("\nfrom a hold's 201 to its row in holds, at %d reserves/s, while %d rebuilds ran; %d holds watched\n",
		rate, rebuilds, len(w.took))
	fmt.Printf("  p50 %s   p90 %s   p99 %s   max %s\n", at(0.5), at(0.9), at(0.99), at(1))
	printGoal("1 s / p99", 1/at(0.99).Seconds(), 1)
	t.stop()
	return reset(ctx, client, pool)
}
