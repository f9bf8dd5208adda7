// Command bench measures StockStream and the baselines that it is compared with, in one
// run, on servers that it starts itself. The ratios matter more than the figures, which
// depend on the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
)

// options are the flags of a run. `make bench` uses the defaults.
type options struct {
	only    string
	rounds  int
	seconds time.Duration
	events  int
	history int
	rate    int
	binary  string
	against string
}

func main() {
	var o options
	var serve, addr, database string
	flag.StringVar(&o.only, "only", "", "run one benchmark: http, pipeline, latency, rebuild, restore, audit or builds")
	flag.IntVar(&o.rounds, "rounds", 5, "number of interleaved rounds; the figures are medians")
	flag.DurationVar(&o.seconds, "duration", 4*time.Second, "duration of one measurement over HTTP")
	flag.IntVar(&o.events, "events", 300_000, "number of events for pipeline")
	flag.IntVar(&o.history, "history", 1_000_000,
		"number of events in the journal for rebuild, restore and audit")
	flag.IntVar(&o.rate, "rate", 2000, "reservations per second for latency")
	flag.StringVar(&o.binary, "binary", "bin/stockstream", "path of the program to measure")
	flag.StringVar(&o.against, "against", "", "path of another build, for -only builds")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this process to this file")
	flag.StringVar(&serve, "serve", "", "internal: run a baseline server (noop or postgres)")
	flag.StringVar(&addr, "addr", "", "internal: address for the baseline to listen on")
	flag.StringVar(&database, "database", "", "internal: URL of the baseline's Postgres")
	flag.Parse()
	debug.SetGCPercent(400) // the same as in the measured program
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if serve != "" {
		err = serveBaseline(ctx, serve, addr, database)
	} else {
		err = profiled(*profile, func() error { return run(ctx, o) })
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// servers are the Redis and the Postgres of a run, with the durability settings of
// production.
type servers struct {
	redis    *local.Redis
	postgres *local.Postgres
	dir      string
}

// benchmark is one part of a run. It prints its results.
type benchmark struct {
	name string
	run  func(context.Context, options, *servers) error
}

func run(ctx context.Context, o options) (err error) {
	if o.only == "builds" && o.against == "" {
		return errors.New("builds: name the other build with -against")
	}
	s, err := startServers(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	fmt.Printf("%d CPUs, %s, appendfsync always; medians of %d interleaved rounds\n",
		runtime.NumCPU(), runtime.Version(), o.rounds)
	benchmarks := []benchmark{
		{"http", benchHTTP},
		{"pipeline", benchPipeline},
		{"latency", benchLatency},
		{"rebuild", benchRebuild},
		{"restore", benchRestore},
		{"audit", benchAudit},
	}
	if o.against != "" {
		benchmarks = append(benchmarks, benchmark{"builds", benchBuilds})
	}
	for _, b := range benchmarks {
		if o.only != "" && o.only != b.name {
			continue
		}
		if err := b.run(ctx, o, s); err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
	}
	return nil
}

// startServers starts a Redis and a Postgres with the tables of this build.
func startServers(ctx context.Context) (*servers, error) {
	s, err := startEmptyServers(ctx)
	if err != nil {
		return s, err
	}
	if err := migrations.Up(ctx, s.postgres.URL()); err != nil {
		return s, err
	}
	conn, err := pgx.Connect(ctx, s.postgres.URL())
	if err != nil {
		return s, err
	}
	defer conn.Close(ctx)
	return s, projections.CreateTables(ctx, conn, projections.BuiltIn()...)
}

func startEmptyServers(ctx context.Context) (*servers, error) {
	dir, err := local.TempDir("stockstream-bench-")
	if err != nil {
		return nil, err
	}
	s := &servers{dir: dir}
	s.redis, err = local.StartRedis(ctx, local.RedisOptions{Dir: filepath.Join(dir, "redis")})
	if err != nil {
		return nil, err
	}
	s.postgres, err = local.StartPostgres(ctx, local.PostgresOptions{
		Dir:      filepath.Join(dir, "postgres"),
		Settings: map[string]string{"max_connections": "300"},
	})
	if err != nil {
		return nil, errors.Join(err, s.redis.Kill())
	}
	return s, nil
}

// open returns clients for both servers, and a function that closes them.
func (s *servers) open(
	ctx context.Context,
) (client *redis.Client, pool *pgxpool.Pool, closeBoth func(), err error) {
	if pool, err = pgxpool.New(ctx, s.postgres.URL()); err != nil {
		return nil, nil, nil, err
	}
	client = redis.NewClient(&redis.Options{Addr: s.redis.Addr(), ContextTimeoutEnabled: true})
	return client, pool, func() {
		pool.Close()
		_ = client.Close() // the measurement is over
	}, nil
}

func (s *servers) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(s.redis.Stop(ctx), s.postgres.Stop(ctx), os.RemoveAll(s.dir))
}

// median returns the median of values, or 0 if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// medianOf returns the median of one figure of each result.
func medianOf[T any](results []T, figure func(T) float64) float64 {
	values := make([]float64, len(results))
	for i, result := range results {
		values[i] = figure(result)
	}
	return median(values)
}

// printGoal prints a ratio, the goal for it, and whether the goal is met.
func printGoal(name string, ratio, least float64) {
	verdict := "met"
	if ratio < least {
		verdict = "MISSED"
	}
	fmt.Printf("  %-62s %8.2f   goal %g: %s\n", name, ratio, least, verdict)
}

// profiled runs work and writes its CPU profile to path, unless path is "".
func profiled(path string, work func() error) error {
	if path == "" {
		return work()
	}
	file, err := os.Create(path) //nolint:gosec // the user named it
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return err
	}
	err = work()
	pprof.StopCPUProfile()
	return errors.Join(err, file.Close())
}
