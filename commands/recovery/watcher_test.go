package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
)

// keepOpen has a service watched over until the test ends.
func (s *shop) keepOpen(service *Service) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { service.KeepOpening(ctx, s.postgres, slog.New(slog.DiscardHandler)) })
	s.t.Cleanup(func() {
		cancel()
		keeper.Wait()
	})
}

// awaitReady waits until a service decides.
func (s *shop) awaitReady(service *Service) {
	s.t.Helper()
	testenv.Eventually(s.t, 15*time.Second, func() (bool, string) {
		err := service.Ready(s.ctx)
		return err == nil, fmt.Sprint(err)
	})
}

// TestKeptOpen holds that processes which serve have an emptied and a rolled-back Redis restored by one of them, answer
// NOT_READY or STALE and nothing else meanwhile, and go on without a restart.
func TestKeptOpen(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	idle := b.anotherService()
	b.keepOpen(b.Service)
	b.keepOpen(idle)
	b.awaitReady(idle)
	for i, lose := range []func(){func() { b.typed("FLUSHALL") }, b.rollBack, func() { b.typed("FLUSHALL") }} {
		lose()
		testenv.Eventually(t, 20*time.Second, func() (bool, string) {
			_, err := b.Reserve(b.ctx, b.reserved)
			if err != nil && !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrStale) {
				t.Errorf("while Redis is restored: got %v, want ErrNotReady", err)
			}
			return err == nil, fmt.Sprint(err)
		})
		b.awaitReady(b.Service)
		b.awaitReady(idle)
		b.wantAsBefore(t, idle)
		log, err := stream.ReadHead(b.ctx, b.operator, b.pool)
		if err != nil || log.Epoch != int64(i+2) {
			t.Errorf("loss %d: the log is %+v (%v), want epoch %d", i, log, err, i+2)
		}
		if i == 0 { // so that there is a stream to be rolled back
			b.journal()
			var entries []any
			conn := testenv.Connect(t, b.postgres)
			page, err := journal.ReadEvents(b.ctx, conn, "main", 0, 100)
			must(t, err)
			for _, e := range page {
				entries = []any{"XADD", "inventory.events", "*", "event_id", e.EventID.String(), "type", string(e.Type), "payload", string(e.Payload), "metadata", "{}", "seq", e.Seq, "at", e.At.UnixMilli()}
				b.typed(entries...)
			}
		}
	}
	b.wantGoesOn(t, idle, 4)
}

// TestIdleProcessLearns holds that a process which decides nothing knows all the same how far the log has come, so that
// it does not sell in one that comes back older.
func TestIdleProcessLearns(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	idle := s.anotherService()
	s.keepOpen(idle)
	s.awaitReady(idle)
	s.stock("shirt", 5)
	s.hold("shirt", 1)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		epoch, seq := idle.fence.known()
		return epoch == 1 && seq == 2, fmt.Sprintf("it knows of epoch %d, seq %d", epoch, seq)
	})
}

// TestRefusalWakes holds that a command which finds no log has the pool looked at, long before it would be otherwise.
func TestRefusalWakes(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	k := &keeper{Service: s.Service, postgres: s.postgres, log: slog.New(slog.DiscardHandler)}
	s.stock("shirt", 1)
	s.typed("FLUSHALL")
	wantRefusal(t, ignore(s.Reserve(s.ctx, s.request("shirt", 1))), ErrNotReady)
	wantRefusal(t, ignore(s.Reserve(s.ctx, s.request("shirt", 1))), ErrNotReady) // waits for nobody
	k.rest(s.ctx, time.Hour)
	if s.ctx.Err() != nil {
		t.Error("it rested until the end of the test")
	}
}

// TestForkWhileServing holds that a fork which comes about while a process serves stops it.
func TestForkWhileServing(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	b.keepOpen(b.Service)
	stale := b.anotherService()
	must(t, stale.Open(b.ctx, b.postgres))
	stale.fence.epoch, stale.fence.seq = 0, 0
	id := b.operator.XRevRangeN(b.ctx, "inventory.events", "+", "-", 1).Val()[0].ID
	b.typed("XDEL", "inventory.events", id) // the last event, and with it what Redis knows of it
	b.typed("HSET", "inventory.meta", "seq", 8)
	must(t, ignore(stale.Reserve(b.ctx, b.request("shirt", 1))))
	must(t, ignore(stale.Reserve(b.ctx, b.request("shirt", 1))))
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		err := b.Ready(b.ctx)
		return errors.Is(err, ErrForked), fmt.Sprint(err)
	})
	wantRefusal(t, ignore(b.Reserve(b.ctx, b.request("shirt", 1))), ErrNotReady)
}

// TestWithoutPostgres holds that a pool that is open stays so while Postgres is away, and that a Redis which is emptied
// then is restored when it comes back.
func TestWithoutPostgres(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	testenv.Migrate(t, server.URL())
	s := closedShop(t)
	s.postgres = testenv.ParseURL(t, server.URL())
	s.keepOpen(s.Service)
	s.awaitReady(s.Service)
	s.stock("shirt", 5)
	s.journaled()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // looks that find no Postgres
		s.noticeMisfit(ErrNotReady)
		s.hold("shirt", 1)
		select {
		case <-s.ctx.Done():
		case <-time.After(lookInterval):
		}
	}
	must(t, s.Ready(s.ctx))
	s.typed("FLUSHALL")
	wantRefusal(t, ignore(s.Reserve(s.ctx, s.request("shirt", 1))), ErrNotReady)
	if err := server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(s.Service)
	if got, err := s.Available(s.ctx, "shirt"); got != 5 || err != nil { // the three holds were never journaled
		t.Errorf("available: got %d (%v), want 5", got, err)
	}
}

// TestToldOnce holds that a fault which lasts is logged once.
func TestToldOnce(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	b.typed("FLUSHALL")
	if _, err := testenv.Connect(t, b.postgres).Exec(b.ctx, `DELETE FROM events WHERE seq = 3`); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	k := &keeper{Service: b.Service, postgres: b.postgres, log: slog.New(slog.NewTextHandler(&text, nil))}
	defer k.disconnect(b.ctx)
	for range 3 {
		if err := k.look(b.ctx); !errors.Is(err, ErrJournalIncomplete) {
			t.Errorf("got %v, want ErrJournalIncomplete", err)
		}
	}
	if n := strings.Count(text.String(), "level=ERROR"); n != 1 || !strings.Contains(text.String(), "seq 3 is not there") {
		t.Errorf("logged %d times:\n%s", n, text.String())
	}
}
