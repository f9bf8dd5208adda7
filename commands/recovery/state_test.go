package recovery

import (
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
)

// TestForgottenKeysAreNotRestored checks that holds and idempotency keys that the scripts
// would have forgotten by now are not restored, and that a hold whose deadline has passed
// since is due.
func TestForgottenKeysAreNotRestored(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.execute(`UPDATE events SET at = at - interval '25 hours' WHERE seq < 9`) // all but the expiring hold
	f.RedisCommand("FLUSHALL")
	done, err := f.recovery.Rebuild(f.Ctx, RebuildOptions{Wait: compareTimeout})
	must(t, err)
	if done.LiveHolds != 3 {
		t.Errorf("rebuild: got %d live holds, want 3", done.LiveHolds)
	}
	if done.EndedHolds != 0 {
		t.Errorf("rebuild: got %d ended holds, want 0", done.EndedHolds)
	}
	if done.Keys != 1 {
		t.Errorf("rebuild: got %d idempotency keys, want 1", done.Keys)
	}

	confirmAgain := commands.Confirm{HoldID: f.confirmedHold, PaymentRef: "pay-1"}
	wantError(t, "confirm", errorOf(f.Confirm(f.Ctx, confirmAgain)), commands.ErrUnknownHold)
	confirmLate := commands.Confirm{HoldID: f.activeHold, PaymentRef: "p"}
	wantError(t, "confirm", errorOf(f.Confirm(f.Ctx, confirmLate)), commands.ErrHoldExpired)
	forgotten := []string{"idem:opening", "idem:" + f.reserved.IdempotencyKey}
	if n := f.Operator.Exists(f.Ctx, forgotten...).Val(); n != 0 {
		t.Errorf("forgotten idempotency keys: got %d in Redis, want 0", n)
	}
	score := f.Operator.ZScore(f.Ctx, "holds:due", f.activeHold).Val()
	if age := time.Since(time.UnixMilli(int64(score))); age < 24*time.Hour || age > 26*time.Hour {
		t.Errorf("the active hold: got due since %s, want about 25 hours less its five minutes", age)
	}
	must(t, errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: f.activeHold, Expired: true})))
	f.WantStock(t, "shirt", 18)
}

// TestEventOfNewerVersionStopsRestore checks that Redis is not restored from a journal
// with an event that only a newer version of this program can read.
func TestEventOfNewerVersionStopsRestore(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("FLUSHALL")
	f.execute(`UPDATE events SET type = 'HOLD_EXTENDED' WHERE seq = 7`)
	wantError(t, "unknown type", f.reconcile(f.process), ErrJournalUnsound)
	f.execute(`UPDATE events SET type = 'HOLD_CONFIRMED', payload = payload || '{"v": 99}' WHERE seq = 7`)
	wantError(t, "newer payload", f.reconcile(f.process), ErrJournalUnsound)
}

// TestUnreadableEventIsSkipped checks that an event that no version can read is left out
// of the restored state, as it is left out of the read tables.
func TestUnreadableEventIsSkipped(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("FLUSHALL")
	f.execute(`UPDATE events SET payload = 'null' WHERE seq = 7`)
	must(t, f.reconcile(f.process))
	if got := f.Operator.HGet(f.Ctx, "hold:"+f.confirmedHold, "state").Val(); got != "ACTIVE" {
		t.Errorf("the hold whose confirmation is unreadable: got state %q, want ACTIVE", got)
	}
}

// TestNegativeStockStopsRestore checks that Redis is not restored from a journal that
// folds to less than no stock, and that the error names the SKU.
func TestNegativeStockStopsRestore(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.execute(`UPDATE events SET payload = '{"sku":"shirt","delta":1,"reason":"x"}' WHERE seq = 1`)
	f.RedisCommand("FLUSHALL")
	err := f.reconcile(f.process)
	wantError(t, "reconcile", err, ErrJournalUnsound)
	if !strings.Contains(errorText(err), "shirt") {
		t.Errorf("reconcile: got error %v, want the SKU shirt in it", err)
	}
}
