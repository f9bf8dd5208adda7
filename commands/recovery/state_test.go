package recovery

import (
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
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
	record, recordErr := journal.ReadPoolRecord(f.Ctx, testenv.Connect(t, f.Postgres), "main")
	must(t, recordErr)
	if record.Epoch != 1 { // each look would take another one
		t.Errorf("epoch of a journal that cannot be restored from: got %d, want 1", record.Epoch)
	}
	if !strings.Contains(errorText(err), "shirt") {
		t.Errorf("reconcile: got error %v, want the SKU shirt in it", err)
	}
}

// envelope returns an event of the journal that is as old as age.
func envelope(seq int64, age time.Duration, eventType events.Type, payload string) events.Envelope {
	return events.Envelope{
		Pool:    "main",
		Seq:     seq,
		Type:    eventType,
		Payload: []byte(payload),
		At:      time.Now().Add(-age),
	}
}

// The payloads of the events that the tests of the fold put together.
const (
	received20   = `{"sku":"shirt","delta":20,"reason":"delivery"}`
	created2     = `{"hold_id":"h1","sku":"shirt","qty":2,"user_id":"ann","ttl_ms":1000,"idempotency_key":"k"}`
	confirmed2   = `{"hold_id":"h1","sku":"shirt","qty":2,"user_id":"ann","payment_ref":"p1"}`
	confirmed3   = `{"hold_id":"h1","sku":"shirt","qty":3,"user_id":"ann","payment_ref":"p1"}`
	cancelled2   = `{"hold_id":"h1","sku":"shirt","qty":2,"user_id":"ann","reason":"requested"}`
	cancelled3   = `{"hold_id":"h1","sku":"shirt","qty":3,"user_id":"ann","reason":"requested"}`
	cancelledHat = `{"hold_id":"h1","sku":"hat","qty":2,"user_id":"ann","reason":"expired"}`
)

// TestImpossibleEventsAreNotFolded checks that the fold fails at an event that no command
// appends after the events before it, and that its error names the seq, the hold and both
// values. It tolerates what it cannot judge, without a change of the stock.
func TestImpossibleEventsAreNotFolded(t *testing.T) {
	t.Parallel()
	const forgotten = 25 * time.Hour // Redis has deleted a hold that ended so long ago
	tests := map[string]struct {
		age     time.Duration // of each event
		created string        // payload of seq 2; "" for created2
		third   events.Type   // the event after the creation
		payload string        // of the third event
		fourth  events.Type   // "" for none
		again   string        // payload of the fourth event
		want    []string      // texts of the error, none if the fold succeeds
		stock   int64         // of shirt, if it succeeds
	}{
		"a confirmation": {
			third:   events.TypeHoldConfirmed,
			payload: confirmed2,
			stock:   18,
		},
		"a cancellation": {
			third:   events.TypeHoldCancelled,
			payload: cancelled2,
			stock:   20,
		},
		"a confirmation of another qty": {
			third:   events.TypeHoldConfirmed,
			payload: confirmed3,
			want:    []string{"seq 3: hold h1 ends with 3 of shirt, and was created with 2 of shirt"},
		},
		"a cancellation of another qty": {
			third:   events.TypeHoldCancelled,
			payload: cancelled3,
			want:    []string{"seq 3: hold h1 ends with 3 of shirt, and was created with 2 of shirt"},
		},
		"a cancellation of another sku": {
			third:   events.TypeHoldCancelled,
			payload: cancelledHat,
			want:    []string{"seq 3: hold h1 ends with 2 of hat, and was created with 2 of shirt"},
		},
		"a cancellation of another qty, long ago": {
			age:     forgotten,
			third:   events.TypeHoldCancelled,
			payload: cancelled3,
			want:    []string{"seq 3: hold h1 ends with 3 of shirt, and was created with 2 of shirt"},
		},
		"a second creation": {
			third:   events.TypeHoldCreated,
			payload: created2,
			want:    []string{"seq 3: hold h1 is created twice"},
		},
		"a creation after the end": {
			third:   events.TypeHoldConfirmed,
			payload: confirmed2,
			fourth:  events.TypeHoldCreated,
			again:   created2,
			want:    []string{"seq 4: hold h1 is created twice"},
		},
		"a second cancellation": {
			third:   events.TypeHoldCancelled,
			payload: cancelled2,
			fourth:  events.TypeHoldCancelled,
			again:   cancelled2,
			want:    []string{"seq 4: hold h1 ends and is not live", "seq 3 has ended it"},
		},
		"a cancellation after the confirmation": {
			third:   events.TypeHoldConfirmed,
			payload: confirmed2,
			fourth:  events.TypeHoldCancelled,
			again:   cancelled2,
			want:    []string{"seq 4: hold h1 ends and is not live", "seq 3 has ended it"},
		},
		"a second confirmation": {
			third:   events.TypeHoldConfirmed,
			payload: confirmed2,
			fourth:  events.TypeHoldConfirmed,
			again:   confirmed2,
			want:    []string{"seq 4: hold h1 ends and is not live", "seq 3 has ended it"},
		},
		"a cancellation of a hold that was dropped": {
			age:     forgotten,
			third:   events.TypeHoldConfirmed,
			payload: confirmed2,
			fourth:  events.TypeHoldCancelled,
			again:   cancelled3,
			stock:   18,
		},
		"a cancellation of a hold whose creation cannot be decoded": {
			created: `null`,
			third:   events.TypeHoldCancelled,
			payload: cancelled2,
			stock:   20,
		},
		"a confirmation of a hold whose creation cannot be decoded": {
			created: `null`,
			third:   events.TypeHoldConfirmed,
			payload: confirmed3,
			stock:   20,
		},
	}
	for name, test := range tests {
		created := test.created
		if created == "" {
			created = created2
		}
		journal := []events.Envelope{
			envelope(1, test.age, events.TypeStockAdjusted, received20),
			envelope(2, test.age, events.TypeHoldCreated, created),
			envelope(3, test.age, test.third, test.payload),
		}
		if test.fourth != "" {
			journal = append(journal, envelope(4, test.age, test.fourth, test.again))
		}
		s := newState(time.Now().UnixMilli(), 24*time.Hour)
		err := s.add(journal)
		if test.want == nil {
			if err != nil {
				t.Errorf("%s: got error %v, want none", name, err)
			}
			if got := s.stock["shirt"]; got != test.stock {
				t.Errorf("%s: got %d units of shirt, want %d", name, got, test.stock)
			}
			continue
		}
		wantError(t, name, err, ErrJournalUnsound)
		for _, want := range append(test.want, "docs/recovery.md") {
			if !strings.Contains(errorText(err), want) {
				t.Errorf("%s: got error %v, want %q in it", name, err, want)
			}
		}
	}
}

// TestImpossibleEventStopsRestoreUntilItIsPutRight restores an emptied Redis from a
// journal in which a row was changed, or repeated. Nothing may be sold until an operator
// put the journal right in the way that docs/recovery.md describes.
func TestImpossibleEventStopsRestoreUntilItIsPutRight(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		tamper   string
		want     string
		putRight string
	}{
		"an end with another qty": {
			tamper:   `UPDATE events SET payload = payload || '{"qty": 4}' WHERE seq = 8`,
			want:     "ends with 4 of shirt, and was created with 3 of shirt",
			putRight: `UPDATE events SET payload = payload || '{"qty": 3}' WHERE seq = 8`,
		},
		"a second end": {
			tamper: `
				INSERT INTO events
				SELECT (jsonb_populate_record(e, jsonb_build_object('seq', 10, 'event_id', gen_random_uuid()))).*
				FROM events AS e WHERE seq = 8;
				UPDATE checkpoints SET seq = 10 WHERE projection = 'journal'`,
			want: "ends and is not live",
			putRight: `
				UPDATE events SET type = 'STOCK_ADJUSTED', hold_id = '',
				    payload = jsonb_build_object('sku', sku, 'delta', 0, 'reason', 'void')
				WHERE pool = 'main' AND seq = 10`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			f.execute(test.tamper)
			f.RedisCommand("FLUSHALL")
			err := f.reconcile(f.process)
			wantError(t, "reconcile", err, ErrJournalUnsound)
			if !strings.Contains(errorText(err), test.want) {
				t.Errorf("reconcile: got error %v, want %q in it", err, test.want)
			}
			wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
			if n := f.Operator.DBSize(f.Ctx).Val(); n != 0 {
				t.Errorf("Redis: got %d keys, want none", n)
			}

			f.execute(test.putRight)
			must(t, f.reconcile(f.process))
			f.WantStock(t, "shirt", 16)
			f.wantReserveReplayed(t, f.process)
			f.wantEndedHoldsRemembered(t, f.process)
		})
	}
}
