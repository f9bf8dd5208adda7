package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/httpapi"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
	"github.com/stockstream/stockstream/sagas"
)

// app is a running process: its clients, and the parts that its roles ask for.
type app struct {
	config   *Config
	log      *slog.Logger
	pool     events.Pool
	redis    *redis.Client
	postgres *pgxpool.Pool
	commands *commands.Service
	router   *message.Router
	rebuilds *rebuild.Background
	workers    []*events.Line
	listener net.Listener
	server   *http.Server
	draining chan struct{}

	linesMu   sync.Mutex
	linesOver bool          // drained before they began: they must not begin any more
	linesDone chan struct{} // closed when the Router has ended; nil before it began
}

const (
	shutdownTimeout = 20 * time.Second // for requests under way
	schemaInterval  = time.Second      // between looks at a schema that does not fit yet
)

// newApp builds the parts in the order in which they depend on each other. Neither Redis nor Postgres has to be there
// yet; the port has to be free.
func newApp(ctx context.Context, config *Config, log *slog.Logger) (a *app, err error) {
	a = &app{config: config, log: log, pool: events.MainPool, draining: make(chan struct{})}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", config.HTTPAddr); err != nil {
		return a, fmt.Errorf("listen on %s (another address: --http-addr or STOCKSTREAM_HTTP_ADDR): %w", config.HTTPAddr, err)
	}
	if a.redis, err = redisClient(config); err != nil {
		return a, err
	}
	if a.postgres, err = pgxpool.New(ctx, config.DatabaseURL); err != nil {
		return a, fmt.Errorf("database URL: %w", err)
	}
	if a.commands, err = commands.NewService(a.pool, a.redis, config.Commands); err != nil {
		return a, err
	}
	if err := a.addWorkers(); err != nil {
		return a, err
	}
	a.rebuilds = rebuild.NewBackground(rebuild.Config{Postgres: a.postgres.Config().ConnConfig, Pool: a.pool, Watched: projections.BuiltIn(), Log: log})
	a.server = httpapi.NewServer(httpapi.Config{
		Commands: a.commands, Ready: a.ready, Postgres: a.postgres, Redis: a.redis, Pool: a.pool, Projections: projections.BuiltIn(), Rebuilds: a.rebuilds,
		Lines: a.workers, Draining: a.draining, HealthOnly: !config.has(roleAPI), Log: log,
	})
	return a, nil
}

// addWorkers puts the handlers of this process's roles on one Watermill Router.
func (a *app) addWorkers() (err error) {
	// What the Router has to say is a detail here: why a handler failed is told by its line.
	levels := map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug, slog.LevelError: slog.LevelDebug}
	a.router, err = message.NewRouter(message.RouterConfig{}, watermill.NewSlogLoggerWithLevelMapping(a.log, levels))
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	session := a.postgres.Config().ConnConfig
	if a.config.has(roleJournal) {
		journal := &events.Journal{Park: deadletters.ParkEntries, Redis: a.redis, Log: a.log}
		a.workers = append(a.workers, journal.AddTo(a.router, events.StreamSubscriberConfig{
			Redis: a.redis, Postgres: session, Pool: a.pool, BatchMax: a.config.BatchMax, Keep: a.config.StreamKeep, Log: a.log,
		}))
	}
	if a.config.has(roleProjections) {
		a.workers = append(a.workers, projections.AddTo(a.router, projections.Config{
			Postgres: session, Pool: a.pool, BatchMax: a.config.BatchMax, Log: a.log,
		}, projections.BuiltIn()...)...)
	}
	if a.config.has(roleSagas) {
		expiry := &sagas.Expiry{Commands: a.commands, Redis: a.redis, Postgres: a.postgres, Pool: a.pool, Log: a.log}
		a.workers = append(a.workers, expiry.AddTo(a.router))
	}
	return nil
}

// takesCommands reports whether this process takes commands, from outside or from the saga.
func (a *app) takesCommands() bool { return a.config.has(roleAPI) || a.config.has(roleSagas) }

// ready is what /readyz answers by. Commands do not need Postgres, once the pool is open; of the lines, the journal needs
// Redis, too.
func (a *app) ready(ctx context.Context) error {
	if a.takesCommands() {
		return a.commands.Ready(ctx)
	}
	if a.config.has(roleJournal) {
		if err := a.redis.Ping(ctx).Err(); err != nil {
			return fmt.Errorf("Redis does not answer: %w", err)
		}
	}
	return a.postgres.Ping(ctx)
}

// addr is where the app listens.
func (a *app) addr() string { return a.listener.Addr().String() }

// run works until ctx ends, and then drains: requests first, then the lines, each batch to its end. The first part
// that fails stops all.
func (a *app) run(ctx context.Context) error {
	defer a.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		if !a.awaitSchema(ctx) {
			return nil
		}
		group.Go(func() error { return a.runWorkers(ctx) })
		group.Go(func() error { return a.runAudits(ctx) })
		if a.takesCommands() {
			a.commands.KeepOpening(ctx, a.postgres.Config().ConnConfig, a.log)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return a.drain()
	})
	return group.Wait()
}

// runWorkers runs the Router until stopLines closes it. The lines do not see ctx: they are stopped when their turn has come.
func (a *app) runWorkers(ctx context.Context) error {
	if len(a.workers) == 0 || !a.beginLines() {
		return nil
	}
	defer close(a.linesDone)
	if err := a.router.Run(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("run the lines: %w", err)
	}
	if ctx.Err() == nil {
		return errors.New("the lines ended by themselves")
	}
	return nil
}

// runAudits audits in the background. It is the journal's role that does so, since it alone works with both Redis and
// Postgres whatever other roles there are.
func (a *app) runAudits(ctx context.Context) error {
	if !a.config.has(roleJournal) || a.config.Audit == 0 {
		return nil
	}
	schedule := &audit.Schedule{
		Config:   audit.Config{Postgres: a.postgres.Config().ConnConfig, Redis: a.redis, Pool: a.pool},
		Interval: a.config.Audit, DB: a.postgres, Log: a.log,
	}
	schedule.Run(ctx)
	return nil
}

func (a *app) beginLines() bool {
	a.linesMu.Lock()
	defer a.linesMu.Unlock()
	if !a.linesOver {
		a.linesDone = make(chan struct{})
	}
	return !a.linesOver
}

// stopLines closes the Router if it was ever run: closing one that was not would wait for handlers that never began.
func (a *app) stopLines() error {
	a.linesMu.Lock()
	a.linesOver = true
	done := a.linesDone
	a.linesMu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-a.router.Running():
		return a.router.Close()
	}
}

func (a *app) drain() error {
	a.log.Info("draining")
	close(a.draining)
	time.Sleep(a.config.DrainDelay)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := a.server.Shutdown(ctx)
	a.rebuilds.Close()
	return errors.Join(err, a.stopLines())
}

// awaitSchema waits for a schema that fits this build, and reports whether it came.
func (a *app) awaitSchema(ctx context.Context) bool {
	tell := skipRepeats(func(err error) { a.log.Error("waiting for Postgres", "error", err) })
	for {
		err := migrations.Check(ctx, a.postgres)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		tell(err)
		if wait.For(ctx, schemaInterval) != nil {
			return false
		}
	}
}

// close closes what newApp opened, in reverse.
func (a *app) close() {
	if a.commands != nil {
		_ = a.commands.Close()
	}
	if a.postgres != nil {
		a.postgres.Close()
	}
	if a.redis != nil {
		_ = wait.AtMost(time.Second, a.redis.Close) // it waits for a Redis that hangs
	}
	if a.listener != nil {
		_ = a.listener.Close()
	}
}
