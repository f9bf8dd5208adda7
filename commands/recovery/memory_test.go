package recovery

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/testenv"
)

const day = 24 * time.Hour

// newProcessThatKeeps returns another process, which remembers keys for keep.
func (f *fixture) newProcessThatKeeps(keep time.Duration) *process {
	f.T.Helper()
	config := commands.DefaultConfig()
	config.KeepMemory = keep
	return f.newProcessWith(testenv.RedisClient(f.T, f.Server), config, slog.New(slog.DiscardHandler))
}

// wantTTL checks that a key expires in want, give or take two seconds and the time that
// passed since the test began.
func (f *fixture) wantTTL(t *testing.T, key string, want time.Duration, began time.Time) {
	t.Helper()
	const tolerance = 2 * time.Second
	got := f.Operator.PTTL(f.Ctx, key).Val()
	if got > want+tolerance || got < want-tolerance-time.Since(began) {
		t.Errorf("%s expires in %s, want %s", key, got, want)
	}
}

// TestRestoredKeysKeepTheRestOfTheirTime restores Redis ten hours after its keys were
// written. It checks that idempotency keys and ended holds are kept for the fourteen
// hours that were left, and not for a whole day again.
func TestRestoredKeysKeepTheRestOfTheirTime(t *testing.T) {
	t.Parallel()
	began := time.Now()
	f := newPopulatedFixture(t)
	f.execute(`UPDATE events SET at = at - interval '10 hours'`)
	f.RedisCommand("FLUSHALL")
	must(t, f.reconcile(f.process))
	for _, key := range []string{
		"idem:opening",
		"idem:" + f.reserved.IdempotencyKey,
		"hold:" + f.confirmedHold,
		"hold:" + f.cancelledHold,
	} {
		f.wantTTL(t, key, 14*time.Hour, began)
	}
}

// TestRestoreKeepsWhatWasPromised writes keys with a process that remembers them for
// three days. Other processes restore Redis two days later, with other settings. It
// checks that the same requests get the same answers, and that an ended hold never
// answers ACTIVE.
func TestRestoreKeepsWhatWasPromised(t *testing.T) {
	t.Parallel()
	restorers := map[string]func(f *fixture) error{
		"a process that remembers for a day": func(f *fixture) error {
			return f.reconcile(f.newProcessThatKeeps(day))
		},
		"a process that remembers for a week": func(f *fixture) error {
			return f.reconcile(f.newProcessThatKeeps(7 * day))
		},
		"the command line, without a setting": func(f *fixture) error {
			recovery := f.newProcess().recovery
			recovery.keepMemory = 0
			return errorOf(recovery.Rebuild(f.Ctx, RebuildOptions{EvenHealthy: true, Wait: compareTimeout}))
		},
	}
	for name, restore := range restorers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newClosedFixture(t)
			p := f.newProcessThatKeeps(3 * day)
			f.watch(p)
			f.awaitReady(p)
			f.process = p
			f.addStock("shirt", 5)
			confirmed := f.newRequest("shirt", 1)
			live := f.newRequest("shirt", 1)
			made, err := p.Reserve(f.Ctx, confirmed)
			must(t, err)
			must(t, errorOf(p.Reserve(f.Ctx, live)))
			payment := commands.Confirm{HoldID: made.HoldID, PaymentRef: "p"}
			must(t, errorOf(p.Confirm(f.Ctx, payment)))
			f.JournalEverything()
			f.execute(`UPDATE events SET at = at - interval '2 days'`)
			f.RedisCommand("FLUSHALL")
			must(t, restore(f))
			f.awaitReady(p)
			for key, minimum := range map[string]time.Duration{
				"idem:" + confirmed.IdempotencyKey: day - time.Minute,
				"idem:" + live.IdempotencyKey:      day - time.Minute,
				"hold:" + made.HoldID:              day - time.Minute,
			} {
				if got := f.Operator.PTTL(f.Ctx, key).Val(); got < minimum {
					t.Errorf("%s expires in %s, want at least %s", key, got, minimum)
				}
			}
			repeated, err := p.Reserve(f.Ctx, confirmed)
			must(t, err)
			if repeated.HoldID != made.HoldID || repeated.Status != "CONFIRMED" {
				t.Errorf("reserve again: got %s of the hold %s, want CONFIRMED of %s",
					repeated.Status, repeated.HoldID, made.HoldID)
			}
			lowered := f.newUncomparedProcess()
			due, err := p.Reserve(f.Ctx, live)
			must(t, err)
			must(t, errorOf(lowered.Cancel(f.Ctx, commands.Cancel{HoldID: due.HoldID, Expired: true})))
			if got := f.Operator.PTTL(f.Ctx, "hold:"+due.HoldID).Val(); got < 3*day-time.Minute {
				t.Errorf("a restored hold that ended is kept for %s, want 3 days at least", got)
			}
		})
	}
}

// TestPromiseEndsWhenItNoLongerMatters checks that a restore remembers keys for a day,
// the shortest time, once no key with a longer promise can be left.
func TestPromiseEndsWhenItNoLongerMatters(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	p := f.newProcessThatKeeps(3 * day)
	conn := testenv.Connect(t, f.Postgres)
	must(t, p.recovery.promiseMemory(f.Ctx, conn))
	want := func(want time.Duration) {
		t.Helper()
		got, err := f.recovery.memoryToRestore(f.Ctx, conn)
		must(t, err)
		if got != want {
			t.Errorf("a restore remembers keys for %s, want %s", got, want)
		}
	}
	want(3 * day)
	f.execute(`UPDATE memory_promises SET until = until - interval '5 days 1 minute'`)
	want(day)
}
