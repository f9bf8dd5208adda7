package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/internal/local"
)

// devOptions are what only `stockstream dev` takes.
type devOptions struct {
	dir          string
	redisAddr    string
	postgresAddr string
}

func newDev(config *Config) *cobra.Command {
	options := devOptions{dir: ".stockstream", redisAddr: "127.0.0.1:6380", postgresAddr: "127.0.0.1:5433"}
	dev := &cobra.Command{
		Use:   "dev",
		Short: "Run the service with a Redis and a Postgres of its own; data are kept in ./.stockstream",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDev(cmd.Context(), config, options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	dev.Flags().StringVar(&options.dir, "dir", options.dir, "where Redis and Postgres keep their data and logs")
	dev.Flags().StringVar(&options.redisAddr, "dev-redis-addr", options.redisAddr, "where its Redis listens; port 0 takes a free one")
	dev.Flags().StringVar(&options.postgresAddr, "dev-postgres-addr", options.postgresAddr, "where its Postgres listens; port 0 takes a free one")
	return dev
}

// runDev starts the two servers, brings the schema up, and runs the service until ctx ends. It stops in the reverse
// order. When one of the servers dies, the service goes on and says so, as it would anywhere.
func runDev(ctx context.Context, config *Config, options devOptions, out, errOut io.Writer) (err error) {
	if err := local.CheckInstalled(); err != nil {
		return err
	}
	if err := os.MkdirAll(options.dir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	unlock, err := lockDirectory(options.dir)
	if err != nil {
		return err
	}
	defer unlock()
	fmt.Fprintf(out, "starting Redis and Postgres in %s …\n", options.dir)
	redis, err := startWithLogFile(options.dir, "redis", func(dir string, log io.Writer) (*local.Redis, error) {
		return local.StartRedis(ctx, local.RedisOptions{Dir: dir, Addr: options.redisAddr, Log: log})
	})
	if err != nil {
		return fmt.Errorf("%w\n(another address for Redis: --dev-redis-addr)", err)
	}
	defer func() { err = errors.Join(err, stopInTime(redis.Stop)) }()
	postgres, err := startWithLogFile(options.dir, "postgres", func(dir string, log io.Writer) (*local.Postgres, error) {
		return local.StartPostgres(ctx, local.PostgresOptions{Dir: dir, Addr: options.postgresAddr, Log: log})
	})
	if err != nil {
		return fmt.Errorf("%w\n(another address for Postgres: --dev-postgres-addr)", err)
	}
	defer func() { err = errors.Join(err, stopInTime(postgres.Stop)) }()
	config.RedisURL, config.DatabaseURL = redis.URL(), postgres.URL()
	if err := migrateUp(ctx, config); err != nil {
		return err
	}
	log := config.logger(errOut)
	a, err := newApp(ctx, config, log)
	if err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching() // before they are stopped
	go logUnexpectedExit(watching, log, redis.Done(), "Redis", filepath.Join(options.dir, "redis.log"))
	go logUnexpectedExit(watching, log, postgres.Done(), "Postgres", filepath.Join(options.dir, "postgres.log"))
	fmt.Fprintf(out, devBanner, a.addr(), postgres.URL(), redis.URL())
	err = a.run(ctx)
	fmt.Fprintln(out, "stopping Redis and Postgres …")
	return err
}

// logUnexpectedExit says that one of the servers ended before it was asked to.
func logUnexpectedExit(ctx context.Context, log *slog.Logger, done <-chan struct{}, name, file string) {
	select {
	case <-ctx.Done():
	case <-done:
		if ctx.Err() == nil {
			log.Error(name+" has ended; stop this program and start it again", "log", file)
		}
	}
}

// lockDirectory keeps a second `stockstream dev` from the data of one that runs: it would take its servers for leftovers.
func lockDirectory(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // below the directory that the user named
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another `stockstream dev` runs in %s; stop it, or use another directory (--dir)", dir), file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// startWithLogFile starts a server with a directory and a log file of its own below dir.
func startWithLogFile[S any](dir, name string, start func(dir string, log io.Writer) (S, error)) (server S, err error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // below the directory that the user named
	if err != nil {
		return server, fmt.Errorf("log of %s: %w", name, err)
	}
	return start(filepath.Join(dir, name), log)
}

// stopInTime gives a server time to end in good order. By now the program's own context has ended.
func stopInTime(stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return stop(ctx)
}

const devBanner = `
StockStream is ready.

  API        http://%[1]s
  health     http://%[1]s/readyz?verbose
  Postgres   psql '%[2]s'
  Redis      redis-cli -u %[3]s

Try:

  redis-cli -u %[3]s SET stock:iphone_15_pro_256 3
  curl -i http://%[1]s/holds/reserve -H 'Content-Type: application/json' \
    -d '{"sku":"iphone_15_pro_256","qty":1,"user_id":"u1","idempotency_key":"first-try"}'

For the other commands of stockstream, in another terminal:

  export STOCKSTREAM_REDIS_URL='%[3]s' STOCKSTREAM_DATABASE_URL='%[2]s'

Ctrl-C stops all of it; the data stay.

`
