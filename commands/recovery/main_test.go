package recovery

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/commandstest"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) {
	worker.AbsenceMax = 5 * time.Second
	testenv.Main(m)
}

// process is one process of the service: it takes commands, and its recovery opens its
// gate.
type process struct {
	*commands.Service
	recovery *Recovery
}

// fixture is a Redis, a schema, and a process on both.
type fixture struct {
	*commandstest.Store
	*process
}

// newFixture returns a fixture whose gate is open.
func newFixture(t testing.TB, redisArgs ...string) *fixture {
	t.Helper()
	f := newClosedFixture(t, redisArgs...)
	if err := f.reconcile(f.process); err != nil {
		t.Fatalf("reconcile a new pool: %v", err)
	}
	return f
}

// newClosedFixture returns a fixture whose gate is closed, and whose pool was never
// initialised.
func newClosedFixture(t testing.TB, redisArgs ...string) *fixture {
	t.Helper()
	f := &fixture{Store: commandstest.NewStore(t, redisArgs...)}
	f.process = f.newProcess()
	return f
}

// newFixtureWithPostgres returns a closed fixture on a Postgres of its own, which the
// test may stop.
func newFixtureWithPostgres(t testing.TB) (*fixture, *local.Postgres) {
	t.Helper()
	server := testenv.PostgresServer(t)
	testenv.Migrate(t, server.URL())
	f := &fixture{Store: commandstest.NewStore(t)}
	f.Postgres = testenv.ParseURL(t, server.URL())
	f.process = f.newProcess()
	return f, server
}

// newProcess returns another process on the fixture's Redis and schema. Its gate is
// closed.
func (f *fixture) newProcess() *process {
	f.T.Helper()
	return f.newProcessWithLog(slog.New(slog.DiscardHandler))
}

func (f *fixture) newProcessWithLog(log *slog.Logger) *process {
	f.T.Helper()
	return f.newProcessOn(testenv.RedisClient(f.T, f.Server), log)
}

// newProcessOn returns a process with its own client of Redis.
func (f *fixture) newProcessOn(client *redis.Client, log *slog.Logger) *process {
	f.T.Helper()
	return f.newProcessWith(client, commands.DefaultConfig(), log)
}

func (f *fixture) newProcessWith(client *redis.Client, config commands.Config, log *slog.Logger) *process {
	f.T.Helper()
	service, err := commands.NewService(f.Pool, client, config)
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		if err := service.Close(); err != nil {
			f.T.Errorf("close the service: %v", err)
		}
	})
	return &process{
		Service: service,
		recovery: New(Config{
			Pool:       f.Pool,
			Redis:      client,
			Postgres:   f.Postgres,
			Gate:       service.Gate(),
			KeepMemory: config.KeepMemory,
			Log:        log,
		}),
	}
}

// newUncomparedProcess returns a process whose gate is open although it compared nothing:
// no position was acknowledged to it, so it sells in any log that it finds.
func (f *fixture) newUncomparedProcess() *process {
	f.T.Helper()
	p := f.newProcess()
	p.Gate().Open()
	return p
}

// reconcile reconciles once, as the watcher does, and opens or closes the gate of p.
func (f *fixture) reconcile(p *process) error {
	f.T.Helper()
	lease, err := worker.AcquireLease(f.Ctx, p.recovery.postgres, p.recovery.leaseName())
	if err == nil {
		defer lease.Release()
		err = p.recovery.reconcile(f.Ctx, lease)
	}
	if err != nil {
		p.Gate().Close(err)
		return err
	}
	p.Gate().Open()
	return nil
}

// watch runs the watcher of p until the test ends.
func (f *fixture) watch(p *process) {
	f.T.Helper()
	f.startWatch(p)
}

// startWatch runs the watcher of p until stop is called, or the test ends.
func (f *fixture) startWatch(p *process) (stop func()) {
	f.T.Helper()
	ctx, cancel := context.WithCancel(f.Ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.recovery.Watch(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
		p.Gate().Close(context.Canceled)
	}
	f.T.Cleanup(stop)
	return stop
}

// awaitReady waits until p takes commands.
func (f *fixture) awaitReady(p *process) {
	f.T.Helper()
	testenv.Eventually(f.T, 15*time.Second, func() (bool, string) {
		err := p.Ready(f.Ctx)
		return err == nil, "not ready: " + errorText(err)
	})
}

// addStock adds units to a SKU.
func (f *fixture) addStock(sku string, units int64) {
	f.T.Helper()
	_, err := f.AdjustStock(f.Ctx, commands.AdjustStock{
		SKU:            sku,
		Delta:          units,
		Reason:         "delivery",
		IdempotencyKey: f.Key(),
	})
	if err != nil {
		f.T.Fatalf("add %d to the stock of %s: %v", units, sku, err)
	}
}

// createHold reserves units of a SKU and returns the hold's id.
func (f *fixture) createHold(sku string, qty int64) string {
	f.T.Helper()
	reserved, err := f.Reserve(f.Ctx, f.newRequest(sku, qty))
	if err != nil {
		f.T.Fatalf("reserve %d of %s: %v", qty, sku, err)
	}
	return reserved.HoldID
}

// newRequest returns a reservation with an unused idempotency key.
func (f *fixture) newRequest(sku string, qty int64) commands.Reserve {
	return commands.Reserve{
		SKU:            sku,
		Qty:            qty,
		UserID:         "ann",
		IdempotencyKey: f.Key(),
	}
}

// restart kills Redis and starts it again with the data that it saved last.
func (f *fixture) restart() {
	f.T.Helper()
	if err := f.Server.Kill(); err != nil {
		f.T.Errorf("kill Redis: %v", err)
	}
	if err := f.Server.Start(f.Ctx); err != nil {
		f.T.Errorf("start Redis: %v", err)
	}
}

// execute changes the schema behind the journal's back.
func (f *fixture) execute(sql string, args ...any) {
	f.T.Helper()
	if _, err := testenv.Connect(f.T, f.Postgres).Exec(f.Ctx, sql, args...); err != nil {
		f.T.Fatal(err)
	}
}

// wantError fails unless the error of an operation is want.
func wantError(t testing.TB, operation string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got error %v, want %v", operation, got, want)
	}
}

// must fails the test at once if err is not nil.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// errorOf returns the error of a call whose result is not needed.
func errorOf[T any](_ T, err error) error { return err }

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}
