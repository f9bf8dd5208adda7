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

// rebuilt are the projections that are measured, together.
var rebuilt = []string{"holds", "orders", "stock_levels"}

// benchRebuild measures a rebuild of three projections from a long journal: how fast it is alone, how much memory its
// process takes, and how late the read tables are while the service sells and rebuilds run one after the other.
func benchRebuild(ctx context.Context, o options, s *servers) error {
	pool, err := pgxpool.New(ctx, s.postgres.URL())
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := writeHistory(ctx, pool, o.history, o.history/10); err != nil {
		return err
	}
	if _, err := projectBacklog(ctx, pool, o.history); err != nil {
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
	fmt.Printf("\nrebuild of %d projections together, from a journal of %d events\n", len(rebuilt), o.history)
	fmt.Printf("  events/s, compared, exchanged, and with the start of the process   %8.0f\n", median(whole))
	fmt.Printf("  events/s, compared and exchanged                                   %8.0f\n", median(replay))
	fmt.Printf("  peak memory of the process, MiB                                    %8.0f\n", median(memory))
	goal("rebuild, in thousands of events/s", median(replay)/1000, 100)
	goal("300 MiB / peak memory", 300/median(memory), 1)
	return rebuildUnderLoad(ctx, o, s, pool)
}

// rebuildAll runs the program's own command, and returns the most memory that its process had, in MiB.
func rebuildAll(ctx context.Context, o options, s *servers) (peakMiB float64, err error) {
	args := slices.Concat([]string{"projections", "rebuild"}, rebuilt, []string{"--database-url", s.postgres.URL()})
	cmd := exec.CommandContext(ctx, o.binary, args...) //nolint:gosec // our own program
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, lastLine(out.Bytes()))
	}
	usage, known := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !known {
		return 0, errors.New("the peak memory of a process is not known here")
	}
	return float64(usage.Maxrss) / 1024, nil
}

func lastLine(out []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return lines[len(lines)-1]
}

func dropOld(ctx context.Context, pool *pgxpool.Pool) error {
	list, err := projections.Named(rebuilt...)
	if err != nil {
		return err
	}
	for _, p := range list {
		err := rebuild.DropOld(ctx, rebuild.Config{Postgres: pool.Config().ConnConfig, Pool: events.MainPool}, p)
		if err != nil {
			return err
		}
	}
	return nil
}

// rebuildUnderLoad sells at a steady rate while rebuilds run, and measures the way from a 201 to the row in holds.
func rebuildUnderLoad(ctx context.Context, o options, s *servers, pool *pgxpool.Pool) error {
	client := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer client.Close()
	// A Redis that is level with the journal, as far as a new SKU is concerned.
	err := errors.Join(client.FlushAll(ctx).Err(), client.HSet(ctx, events.MainPool.MetaKey(), "epoch", 1, "seq", o.history).Err(),
		client.Set(ctx, events.MainPool.StockKey("hot"), 1_000_000_000, 0).Err())
	if err != nil {
		return err
	}
	t, err := launchService(ctx, o, s, everything)
	if err != nil {
		return err
	}
	defer t.stop()
	const rate = 1000
	w := &watcher{pool: pool}
	selling := make(chan error, 1)
	go func() {
		_, err := steady(ctx, t.addr, rate, 6*o.seconds, w)
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
		return errors.Join(err, errors.New("too few holds were watched"))
	}
	slices.Sort(w.took)
	at := func(q float64) time.Duration { return w.took[int(q*float64(len(w.took)-1))].Round(time.Millisecond) }
	fmt.Printf("\nfrom a hold's 201 to its row in holds, at %d reserves/s, while %d rebuilds ran; %d holds watched\n", rate, rebuilds, len(w.took))
	fmt.Printf("  p50 %s   p90 %s   p99 %s   max %s\n", at(0.5), at(0.9), at(0.99), at(1))
	goal("1 s / p99", 1/at(0.99).Seconds(), 1)
	t.stop()
	return reset(ctx, client, pool)
}
