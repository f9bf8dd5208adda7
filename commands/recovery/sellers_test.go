package recovery

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

// newProcessOnServer returns a process on another Redis, but the fixture's schema.
func (f *fixture) newProcessOnServer(server *local.Redis) *process {
	f.T.Helper()
	return f.newProcessOn(testenv.RedisClient(f.T, server), slog.New(slog.DiscardHandler))
}

// awaitClosed waits until p is not ready for the reason want.
func (f *fixture) awaitClosed(p *process, want error) {
	f.T.Helper()
	testenv.Eventually(f.T, 15*time.Second, func() (bool, string) {
		err := p.Ready(f.Ctx)
		return errors.Is(err, want), "ready: " + errorText(err)
	})
}

// sellOut reserves single units until a reservation fails, and returns how many it got.
func (f *fixture) sellOut(p *process, sku string) (units int) {
	f.T.Helper()
	for {
		_, err := p.Reserve(f.Ctx, f.newRequest(sku, 1))
		if err != nil {
			wantError(f.T, "reserve until the stock is sold out", err, commands.ErrSoldOut)
			return units
		}
		units++
	}
}

// sellers returns the reports in Postgres.
func (f *fixture) sellers() []journal.Seller {
	f.T.Helper()
	found, err := journal.ReadSellers(f.Ctx, testenv.Connect(f.T, f.Postgres), "main")
	must(f.T, err)
	return found
}

// TestStockIsSoldFromOneRedis starts a second process with another, empty Redis beside
// one that sells. The second process sells nothing until the first one ends, and then
// only the rest of the stock. The first one finds on its return that the pool has moved.
func TestStockIsSoldFromOneRedis(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	other := testenv.Redis(t)
	stopFirst := f.startWatch(f.process)
	f.awaitReady(f.process)
	f.addStock("shirt", 100)
	f.createHold("shirt", 16)
	f.JournalEverything()

	second := f.newProcessOnServer(other)
	stopSecond := f.startWatch(second)
	f.awaitClosed(second, journal.ErrOtherSeller)
	_, err := second.recovery.Rebuild(f.Ctx, RebuildOptions{Wait: time.Second})
	wantError(t, "rebuild the other Redis on demand", err, journal.ErrOtherSeller)
	err = errorOf(second.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve on the other Redis", err, commands.ErrNotReady)
	f.createHold("shirt", 4)
	f.JournalEverything()

	stopFirst()
	f.awaitReady(second)
	if units := f.sellOut(second, "shirt"); units != 80 {
		t.Errorf("units sold on the other Redis: got %d, want the 80 that were left", units)
	}

	first := f.newProcess()
	f.startWatch(first)
	f.awaitClosed(first, ErrSplitBrain)
	f.RedisCommand("HDEL", f.Pool.MetaKey(), "server")
	f.awaitClosed(first, journal.ErrOtherSeller)
	stopSecond()
	f.awaitReady(first)
}

// TestSplitBrainStopsTheFirstSeller has a second process move the pool to another Redis
// while the first one cannot report that it sells, because Postgres is away for it. When
// Postgres is back, the first one must stop.
func TestSplitBrainStopsTheFirstSeller(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	f.startWatch(f.process)
	f.awaitReady(f.process)
	f.addStock("shirt", 3)
	f.JournalEverything()
	server, err := stream.ReadServer(f.Ctx, testenv.RedisClient(t, testenv.Redis(t)), f.Pool)
	must(t, err)
	// The epoch is raised as if the first process had been silent for long.
	_, _, err = journal.RaiseEpoch(f.Ctx, testenv.Connect(t, f.Postgres), "main", journal.Raise{
		Above:  1,
		Server: server.ReplicationID,
		Silent: f.sellers(),
	})
	must(t, err)
	f.awaitClosed(f.process, ErrSplitBrain)
	if err := f.Ready(f.Ctx); !strings.Contains(errorText(err), server.ReplicationID) {
		t.Errorf("ready: got %v, want the server that the pool was moved to", err)
	}
}

// TestDeadSellerDelaysARestore checks that the report of a dead process on another server
// keeps a pool closed for sellerLife, however old the report is, and no longer.
func TestDeadSellerDelaysARestore(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.execute(`INSERT INTO sellers (pool, process, server, reported_at)
		VALUES ('main', 'web-1/1/dead', 'f00d', now() - interval '1 hour')`)
	f.RedisCommand("FLUSHALL")
	began := time.Now()
	f.watch(f.process)
	f.awaitClosed(f.process, journal.ErrOtherSeller)
	f.awaitReady(f.process)
	if took := time.Since(began); took < sellerLife {
		t.Errorf("open again after %s, want %s at least", took, sellerLife)
	}
	f.wantRestored(t, f.process)
}

// TestProcessReportsWhileItSells checks that the reports name the processes that sell,
// and no others.
func TestProcessReportsWhileItSells(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	stop := f.startWatch(f.process)
	f.awaitReady(f.process)
	first := f.sellers()
	if len(first) != 1 || first[0].Process != f.recovery.process {
		t.Fatalf("sellers: got %v, want %s", first, f.recovery.process)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		next := f.sellers()
		return len(next) == 1 && next[0].ReportedAt.After(first[0].ReportedAt), "the report is not repeated"
	})
	stop()
	if left := f.sellers(); len(left) > 0 {
		t.Errorf("sellers after the process ended: got %v, want none", left)
	}
}
