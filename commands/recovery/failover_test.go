package recovery

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

// failover is a Redis with a replica. Its processes reach both through one address, as
// through a name that moves to the replica when it is promoted.
type failover struct {
	*fixture
	replica *local.Redis
	proxy   *testenv.Proxy
}

func newFailover(t *testing.T) *failover {
	t.Helper()
	f := &failover{
		fixture: newFixture(t),
		replica: testenv.Redis(t),
	}
	f.proxy = testenv.NewProxy(t, f.Server.Addr())
	host, port, err := net.SplitHostPort(f.Server.Addr())
	must(t, err)
	f.replicaCommand("REPLICAOF", host, port)
	return f
}

// openProcess returns a process that reaches Redis through the proxy, with an open gate.
func (f *failover) openProcess() *process {
	f.T.Helper()
	client := redis.NewClient(&redis.Options{Addr: f.proxy.Addr(), ContextTimeoutEnabled: true})
	f.T.Cleanup(func() { _ = client.Close() })
	p := f.newProcessOn(client, slog.New(slog.DiscardHandler))
	must(f.T, f.reconcile(p))
	return p
}

func (f *failover) replicaCommand(args ...any) {
	f.T.Helper()
	must(f.T, testenv.RedisClient(f.T, f.replica).Do(f.Ctx, args...).Err())
}

// awaitReplica waits until the replica has everything that was written so far.
func (f *failover) awaitReplica() {
	f.T.Helper()
	testenv.Eventually(f.T, 15*time.Second, func() (bool, string) {
		f.RedisCommand("SET", "probe", f.Key())
		replicas, err := f.Operator.Wait(f.Ctx, 1, time.Second).Result()
		return replicas == 1, "WAIT: " + errorText(err)
	})
}

// cutReplica ends the replication: the replica keeps what it has.
func (f *failover) cutReplica() { f.replicaCommand("REPLICAOF", "127.0.0.1", "1") }

// failOver kills Redis, promotes the replica, and lets the address lead to it.
func (f *failover) failOver() {
	f.T.Helper()
	must(f.T, f.Server.Kill())
	f.replicaCommand("REPLICAOF", "NO", "ONE")
	f.proxy.Redirect(f.replica.Addr())
}

// TestIdleProcessSellsNothingOnALaggingReplica has one process sell all units, and then
// promotes a replica that has none of these sales. A process that saw none of the sales
// must not sell the units again: not at once, and not after it restored the replica.
func TestIdleProcessSellsNothingOnALaggingReplica(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	seller := f.openProcess()
	idle := f.openProcess()
	stopJournal := f.RunJournal()
	f.addStock("shirt", 3)
	f.awaitReplica()
	f.cutReplica()
	for range 3 {
		must(t, errorOf(seller.Reserve(f.Ctx, f.newRequest("shirt", 1))))
	}
	f.AwaitJournaled()
	stopJournal()
	f.failOver()

	err := errorOf(idle.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve on the promoted replica", err, commands.ErrOtherServer)
	f.watch(idle)
	f.awaitReady(idle)
	err = errorOf(idle.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve after the restore", err, commands.ErrSoldOut)
}

// TestPromotedReplicaThatLacksNothingSellsOn promotes a replica that has every event, and
// checks that it sells on after the comparison, with its own keys and in a new epoch.
func TestPromotedReplicaThatLacksNothingSellsOn(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	p := f.openProcess()
	stopJournal := f.RunJournal()
	f.addStock("shirt", 3)
	f.AwaitJournaled()
	stopJournal()
	must(t, errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1)))) // not journaled
	f.awaitReplica()
	before, _ := p.Gate().Acknowledged()
	f.failOver()

	f.watch(p)
	testenv.Eventually(t, 15*time.Second, func() (bool, string) {
		err := errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 2)))
		return err == nil, "reserve: " + errorText(err)
	})
	err := errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve a fourth unit", err, commands.ErrSoldOut)
	epoch, _ := p.Gate().Acknowledged()
	if epoch != before+1 {
		t.Errorf("got epoch %d, want %d", epoch, before+1)
	}
	probe := testenv.RedisClient(t, f.replica).Exists(f.Ctx, "probe").Val()
	if probe != 1 {
		t.Error("the promoted replica was emptied, want it kept")
	}
}

// TestRestartedRedisIsComparedBeforeItSells checks that a Redis that restarted refuses
// commands until it was compared with the journal, and keeps its keys.
func TestRestartedRedisIsComparedBeforeItSells(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 1)
	f.restart()
	err := errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve after the restart", err, commands.ErrOtherServer)
	if err := f.Ready(f.Ctx); !errors.Is(err, commands.ErrOtherServer) {
		t.Errorf("ready after the restart: got %v, want ErrOtherServer", err)
	}
	must(t, f.reconcile(f.process))
	must(t, errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))))
}
