package recovery

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestAheadIsNeverOverwritten holds that a Redis whose log lost its end mark, and whose stream goes on beyond the
// journal, is left as it is until the journal has taken all of it; then nothing is missing.
func TestAheadIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"the stream has it", "the closed log says it"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBusyShop(t)
			late := b.hold("shirt", 4)
			b.before = b.contents()
			if name == "the stream has it" {
				b.typed("DEL", "inventory.meta")
			} else {
				b.typed("RENAME", "inventory.meta", "inventory.meta.closed")
				b.typed("RENAME", "inventory.events", "elsewhere")
			}
			before := b.dump()
			if err := b.Open(b.ctx, b.postgres); !errors.Is(err, ErrUnjournaled) {
				t.Errorf("got %v, want ErrUnjournaled", err)
			}
			if _, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{EvenHealthy: true, Wait: lookTimeout}); !errors.Is(err, ErrUnjournaled) {
				t.Errorf("rebuild: got %v, want ErrUnjournaled", err)
			}
			b.wantUnchanged(t, before)
			if name == "the closed log says it" {
				b.typed("RENAME", "elsewhere", "inventory.events")
			}
			b.journal()
			testenv.Eventually(t, lookTimeout, func() (bool, string) {
				err := b.Open(b.ctx, b.postgres)
				return err == nil, fmt.Sprint(err)
			})
			b.wantState(t, b.before)
			must(t, ignore(b.Confirm(b.ctx, Confirm{HoldID: late, PaymentRef: "p"})))
		})
	}
}

// TestFork holds that a pool with two different events of one seq takes no commands, that both sides are kept, and that
// doing what the message says makes the journal's side count.
func TestFork(t *testing.T) {
	t.Parallel()
	tests := map[string]func(b *busyShop, stale *Service){
		"behind the journal": func(b *busyShop, stale *Service) {
			must(b.t, ignore(stale.Reserve(b.ctx, b.request("shirt", 1))))
		},
		"beyond the journal": func(b *busyShop, stale *Service) {
			for range 6 {
				must(b.t, ignore(stale.Reserve(b.ctx, b.request("shirt", 1))))
			}
		},
		"of an earlier life, and trimmed": func(b *busyShop, stale *Service) {
			for range 6 {
				must(b.t, ignore(stale.Reserve(b.ctx, b.request("shirt", 1))))
			}
			conn := testenv.Connect(b.t, b.postgres)
			must(b.t, journal.RecordPool(b.ctx, conn, "main", 2))
			b.typed("XTRIM", "inventory.events", "MAXLEN", 1)
		},
	}
	for name, sell := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBusyShop(t)
			stale := b.anotherService()
			must(t, stale.Open(b.ctx, b.postgres))
			stale.fence.epoch, stale.fence.seq = 0, 0 // it has seen nothing acknowledged
			b.rollBack()
			sell(b, stale)
			before := b.dump()
			err := b.Open(b.ctx, b.postgres)
			if !errors.Is(err, ErrForked) || !strings.Contains(fmt.Sprint(err), "redis-cli RENAME inventory.events inventory.events.forked") {
				t.Fatalf("got %v, want ErrForked with what to do", err)
			}
			if err := b.Ready(b.ctx); !errors.Is(err, ErrNotReady) || !errors.Is(err, ErrForked) {
				t.Errorf("ready: got %v, want NOT_READY for ErrForked", err)
			}
			wantRefusal(t, ignore(b.Reserve(b.ctx, b.request("shirt", 1))), ErrNotReady)
			if _, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{EvenHealthy: true, Wait: lookTimeout}); !errors.Is(err, ErrForked) {
				t.Errorf("rebuild: got %v, want ErrForked", err)
			}
			b.wantUnchanged(t, before)
			b.typed("RENAME", "inventory.events", "inventory.events.forked")
			b.typed("DEL", "inventory.meta")
			must(t, b.Open(b.ctx, b.postgres))
			b.wantAsBefore(t, b.Service)
			if kept := b.operator.XLen(b.ctx, "inventory.events.forked").Val(); kept == 0 {
				t.Error("Redis's side was not kept")
			}
		})
	}
}

// TestEarlierLife holds that a log which agrees with the journal, and goes on beyond it, is kept whole though its epoch
// was passed: such a log is left when a process dies between raising the epoch and closing the log, and when Redis lost
// what it had acknowledged and the journal had not yet read.
func TestEarlierLife(t *testing.T) {
	t.Parallel()
	tests := map[string]func(b *busyShop){
		"the epoch was raised": func(b *busyShop) {
			must(b.t, journal.RecordPool(b.ctx, testenv.Connect(b.t, b.postgres), "main", 7))
		},
		"this process saw a later epoch": func(b *busyShop) { b.fence.saw(7, 3) },
		"this process saw more acknowledged": func(b *busyShop) {
			b.fence.saw(1, 99)
			if _, err := b.Reserve(b.ctx, b.request("shirt", 1)); !errors.Is(err, ErrStale) {
				b.t.Errorf("reserve: got %v, want ErrStale", err)
			}
		},
	}
	for name, arrange := range tests {
		for _, ahead := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", ahead ", ahead), func(t *testing.T) {
				t.Parallel()
				b := openBusyShop(t)
				late := b.live
				if ahead {
					late = b.hold("shirt", 2)
					b.before = b.contents()
				}
				arrange(b)
				must(t, b.Open(b.ctx, b.postgres))
				b.wantState(t, b.before)
				must(t, b.Ready(b.ctx))
				must(t, ignore(b.Confirm(b.ctx, Confirm{HoldID: late, PaymentRef: "p"})))
				record, err := journal.ReadPoolRecord(b.ctx, testenv.Connect(t, b.postgres), "main")
				must(t, err)
				log, err := stream.ReadHead(b.ctx, b.operator, b.pool)
				if err != nil || log.Epoch != record.Epoch || log.Epoch < 2 {
					t.Errorf("Redis is in epoch %d (%v), Postgres has %d", log.Epoch, err, record.Epoch)
				}
				b.journaled()
			})
		}
	}
}

// TestLevelOfAnEarlierLife holds that a log of an earlier life which ends where the journal does, and whose stream was
// trimmed, is written anew: it has nothing to lose.
func TestLevelOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	must(t, journal.RecordPool(b.ctx, testenv.Connect(t, b.postgres), "main", 2))
	b.typed("XTRIM", "inventory.events", "MAXLEN", 0)
	b.typed("SET", "stock:shirt", 1)
	must(t, b.Open(b.ctx, b.postgres))
	b.wantAsBefore(t, b.Service)
	b.wantGoesOn(t, b.Service, 3)
}

// TestPostgresOfAnEarlierLife holds that an epoch which Postgres has forgotten is taken from Redis.
func TestPostgresOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	b.typed("FLUSHALL")
	must(t, b.Open(b.ctx, b.postgres))
	conn := testenv.Connect(t, b.postgres)
	if _, err := conn.Exec(b.ctx, `DELETE FROM pools`); err != nil {
		t.Fatal(err)
	}
	must(t, b.anotherService().Open(b.ctx, b.postgres))
	b.typed("FLUSHALL")
	must(t, b.Open(b.ctx, b.postgres))
	b.wantAsBefore(t, b.Service)
	b.wantGoesOn(t, b.Service, 3)
}

// TestRolledBack holds that a Redis with an older copy of its data is brought to where the journal is, that what is
// older in its stream goes, and that what nobody knows stays.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	b.rollBack()
	foreign := b.operator.XAdd(b.ctx, &redis.XAddArgs{Stream: "inventory.events", Values: []any{"hello", "world"}}).Val()
	must(t, b.Open(b.ctx, b.postgres))
	b.wantAsBefore(t, b.Service)
	entries := b.operator.XRange(b.ctx, "inventory.events", "-", "+").Val()
	if len(entries) != 1 || entries[0].ID != foreign {
		t.Errorf("the stream holds %v, want only what no command wrote", entries)
	}
	b.wantGoesOn(t, b.Service, 2)
}

// TestSoldWhileCompared holds that a Redis which is behind is not closed once something was sold in it after the
// comparison: that sale would be lost.
func TestSoldWhileCompared(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	stale := b.anotherService()
	must(t, stale.Open(b.ctx, b.postgres))
	stale.fence.epoch, stale.fence.seq = 0, 0
	b.rollBack()
	var sell sync.Once
	var before map[string]string
	_, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{Wait: lookTimeout, Report: func(Progress) {
		sell.Do(func() {
			if _, err := stale.Reserve(b.ctx, b.request("shirt", 1)); err != nil {
				t.Error(err)
			}
			before = b.dump()
		})
	}})
	if !errors.Is(err, errChanged) {
		t.Errorf("rebuild: got %v, want errChanged", err)
	}
	b.wantUnchanged(t, before)
	if err := b.Open(b.ctx, b.postgres); !errors.Is(err, ErrForked) {
		t.Errorf("open: got %v, want ErrForked", err)
	}
}

// TestOldRedis holds that a Redis which is known to be too old takes no commands.
func TestOldRedis(t *testing.T) {
	t.Parallel()
	for version, old := range map[string]bool{"6.2.14": true, "5": true, "7.0.15": false, "8.2.1": false, "10.0.0": false, "": false, "unstable": false} {
		if err := checkVersion(version); (err != nil) != old {
			t.Errorf("%q: got %v, too old: %t", version, err, old)
		}
	}
	s := openShop(t)
	if err := s.requireVersion(s.ctx); err != nil {
		t.Errorf("the Redis of the tests: %v", err)
	}
}

// TestAdoptOnlyAWholeLog holds that a log which is shorter than it was when it was looked at is not declared the newest.
func TestAdoptOnlyAWholeLog(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 3)
	s.hold("shirt", 1)
	conn := testenv.Connect(t, s.postgres)
	both, _, err := s.judge(s.ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	s.typed("HINCRBY", s.pool.MetaKey(), "seq", -1)
	if err := s.adopt(s.ctx, conn, both); !errors.Is(err, errChanged) {
		t.Errorf("got %v, want errChanged", err)
	}
	s.typed("HINCRBY", s.pool.MetaKey(), "seq", 1)
	if err := s.adopt(s.ctx, conn, both); err != nil {
		t.Errorf("the whole log: %v", err)
	}
}
