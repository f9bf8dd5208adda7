package recovery

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestRestoredAnswers holds that an emptied Redis answers everything as before once it was opened again, to a process
// that was there all the time and to one that is new.
func TestRestoredAnswers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"the same process", "another process"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBusyShop(t)
			service := b.Service
			if name == "another process" {
				service = b.anotherService()
			}
			b.typed("FLUSHALL")
			must(t, service.Open(b.ctx, b.postgres))
			b.wantAsBefore(t, service)
			b.wantGoesOn(t, service, 2)
		})
	}
}

// TestRestoredTwice holds that a log may begin any number of lives, and that none is mistaken for another.
func TestRestoredTwice(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	for range 3 {
		b.typed("FLUSHALL")
		must(t, b.Open(b.ctx, b.postgres))
	}
	b.wantAsBefore(t, b.Service)
	b.wantGoesOn(t, b.Service, 4)
}

// TestForgotten holds that what would have been forgotten by now is not restored, and that a hold whose deadline passed
// meanwhile is due.
func TestForgotten(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	conn := testenv.Connect(t, b.postgres)
	if _, err := conn.Exec(b.ctx, `UPDATE events SET at = at - interval '25 hours' WHERE seq < 9`); err != nil { // all but the short hold
		t.Fatal(err)
	}
	b.typed("FLUSHALL")
	done, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{Wait: lookTimeout})
	if err != nil || done.LiveHolds != 3 || done.EndedHolds != 0 || done.Keys != 1 {
		t.Errorf("got %+v (%v), want three live holds and the key of one", done, err)
	}
	wantRefusal(t, ignore(b.Confirm(b.ctx, Confirm{HoldID: b.paid, PaymentRef: "pay-1"})), ErrUnknownHold)
	wantRefusal(t, ignore(b.Confirm(b.ctx, Confirm{HoldID: b.live, PaymentRef: "p"})), ErrHoldExpired)
	if n := b.operator.Exists(b.ctx, "idem:opening", "idem:"+b.reserved.IdempotencyKey).Val(); n != 0 {
		t.Errorf("%d keys are remembered beyond their time", n)
	}
	score := b.operator.ZScore(b.ctx, "holds:due", b.live).Val()
	if age := time.Since(time.UnixMilli(int64(score))); age < 24*time.Hour || age > 26*time.Hour {
		t.Errorf("the hold is due since %s, want about 25 hours less its five minutes", age)
	}
	must(t, ignore(b.Cancel(b.ctx, Cancel{HoldID: b.live, Expired: true})))
	b.wantStock(t, "shirt", 18)
}

// TestRestoredAtOnce holds that of several processes one restores, and that all of them open.
func TestRestoredAtOnce(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	b.typed("FLUSHALL")
	var all sync.WaitGroup
	for range 4 {
		other := b.anotherService()
		all.Go(func() {
			if err := other.Open(b.ctx, b.postgres); err != nil {
				t.Errorf("open: %v", err)
			}
		})
	}
	all.Wait()
	must(t, b.Open(b.ctx, b.postgres))
	b.wantAsBefore(t, b.Service)
	b.wantGoesOn(t, b.Service, 2)
}

// begun is a restorer of the shop that has got as far as the right to write.
func (b *busyShop) begun(t *testing.T) (*restoring, *restoreWriter) {
	t.Helper()
	lease, err := worker.AcquireLease(b.ctx, b.postgres, fmt.Sprint("a lease of its own ", b.keys.Add(1))) // as if it had lost the real one
	must(t, err)
	t.Cleanup(lease.Release)
	r, err := b.newRestoring(b.ctx, b.postgres, lease, func(Progress) {})
	must(t, err)
	epoch, journaled, err := journal.RaiseEpoch(b.ctx, lease.Conn, "main", 1)
	must(t, err)
	must(t, r.foldTo(b.ctx, journaled))
	w, err := r.begin(b.ctx, epoch)
	must(t, err)
	return r, w
}

// TestSuperseded holds that a restorer which has lost its lease to another one, and does not know, changes nothing from
// the moment on in which the other has begun.
func TestSuperseded(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	b.typed("FLUSHALL")
	nothing := func(int) {}
	late, lateWriter := b.begun(t)
	must(t, lateWriter.write(b.ctx, late.fold, nothing))
	_, writer := b.begun(t)
	wantNothing := func() {
		t.Helper()
		before := b.dump()
		for what, err := range map[string]error{
			"write": lateWriter.write(b.ctx, late.fold, nothing), "remove": ignore(0, lateWriter.remove(b.ctx, func(int64) {})),
			"trim": lateWriter.forget(b.ctx, "9999999999999-0"),
		} {
			if !errors.Is(err, errSuperseded) {
				t.Errorf("%s, late: got %v, want errSuperseded", what, err)
			}
		}
		if err := late.publish(b.ctx, lateWriter); err == nil {
			t.Error("it published, late")
		}
		b.wantUnchanged(t, before)
	}
	wantNothing()
	again := []string{b.pool.MetaKey(), b.pool.NextMetaKey()}
	if err := b.step(b.ctx, beginRestoreScript, statusBegun, again, lateWriter.epoch, 0); !errors.Is(err, errSuperseded) {
		t.Errorf("begin, late: got %v, want errSuperseded", err)
	}
	must(t, writer.remove(b.ctx, func(int64) {}))
	must(t, writer.write(b.ctx, late.fold, nothing))
	wantNothing()
	must(t, late.publish(b.ctx, writer))
	must(t, late.publish(b.ctx, writer)) // its answer may have been lost
	wantNothing()
	must(t, b.Open(b.ctx, b.postgres))
	b.wantAsBefore(t, b.Service)
}

// TestJournalWithAHole holds that nothing is restored from a journal that lacks an event, and that nothing is touched.
func TestJournalWithAHole(t *testing.T) {
	t.Parallel()
	for _, seq := range []int{1, 5, 9} {
		t.Run(fmt.Sprint("without seq ", seq), func(t *testing.T) {
			t.Parallel()
			b := openBusyShop(t)
			conn := testenv.Connect(t, b.postgres)
			if _, err := conn.Exec(b.ctx, `DELETE FROM events WHERE seq = $1`, seq); err != nil {
				t.Fatal(err)
			}
			if _, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{EvenHealthy: true, Wait: time.Second}); !errors.Is(err, ErrJournalIncomplete) {
				t.Errorf("rebuild: got %v, want ErrJournalIncomplete", err)
			}
			b.wantState(t, b.before)
			must(t, b.Ready(b.ctx))
			b.typed("DEL", "inventory.meta", "inventory.events")
			before := b.dump()
			err := b.Open(b.ctx, b.postgres)
			if !errors.Is(err, ErrJournalIncomplete) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("seq %d is not there", seq)) {
				t.Errorf("open: got %v, want ErrJournalIncomplete with the seq %d", err, seq)
			}
			b.wantUnchanged(t, before)
		})
	}
}

// TestUnreadableEvents holds that an event of a later version stops restoring, and that one that nobody can read is
// passed over, as the read tables do.
func TestUnreadableEvents(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	conn := testenv.Connect(t, b.postgres)
	change := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(b.ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	b.typed("FLUSHALL")
	change(`UPDATE events SET type = 'HOLD_EXTENDED' WHERE seq = 7`)
	if err := b.Open(b.ctx, b.postgres); !errors.Is(err, ErrJournalUnsound) {
		t.Errorf("an unknown type: got %v, want ErrJournalUnsound", err)
	}
	change(`UPDATE events SET type = 'HOLD_CONFIRMED', payload = payload || '{"v": 99}' WHERE seq = 7`)
	if err := b.Open(b.ctx, b.postgres); !errors.Is(err, ErrJournalUnsound) {
		t.Errorf("a later version: got %v, want ErrJournalUnsound", err)
	}
	change(`UPDATE events SET payload = 'null' WHERE seq = 7`)
	must(t, b.Open(b.ctx, b.postgres))
	if got := b.operator.HGet(b.ctx, "hold:"+b.paid, "state").Val(); got != "ACTIVE" {
		t.Errorf("the hold whose confirmation cannot be read is %s", got)
	}
	change(`UPDATE events SET payload = '{"sku":"shirt","delta":1,"reason":"x"}' WHERE seq = 1`)
	b.typed("FLUSHALL")
	if err := b.Open(b.ctx, b.postgres); !errors.Is(err, ErrJournalUnsound) || !strings.Contains(fmt.Sprint(err), "shirt") {
		t.Errorf("fewer than none: got %v, want ErrJournalUnsound", err)
	}
}
