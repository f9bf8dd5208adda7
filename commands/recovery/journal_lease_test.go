package recovery

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// slowJournal is a journal whose worker has read events from Redis, and waits for
// Postgres in order to append them.
type slowJournal struct {
	f     *fixture
	block pgx.Tx
}

// blockJournal runs the journal, and blocks it once it has read everything from Redis.
func (f *fixture) blockJournal(decide func()) *slowJournal {
	f.T.Helper()
	block, err := testenv.Connect(f.T, f.Postgres).Begin(f.Ctx)
	must(f.T, err)
	_, err = block.Exec(f.Ctx, `LOCK TABLE events IN SHARE MODE`) // readers are not blocked
	must(f.T, err)
	decide()
	f.RunJournal()
	s := &slowJournal{f: f, block: block}
	s.await("relation", func() bool { return false })
	return s
}

// await waits until a session waits for a lock of a type, or until ended returns true.
func (s *slowJournal) await(lockType string, ended func() bool) {
	s.f.T.Helper()
	conn := testenv.Connect(s.f.T, s.f.Postgres)
	const query = `
		SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = $1 AND NOT granted
		    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		    AND (relation IS NULL OR relation = 'events'::regclass))`
	testenv.Eventually(s.f.T, 30*time.Second, func() (bool, string) {
		var waits bool
		err := conn.QueryRow(s.f.Ctx, query, lockType).Scan(&waits)
		return waits || ended(), fmt.Sprintf("no session waits for a lock of type %s (%v)", lockType, err)
	})
}

// unblock lets Postgres take the batch.
func (s *slowJournal) unblock() {
	s.f.T.Helper()
	must(s.f.T, s.block.Rollback(s.f.Ctx))
}

// newFixtureWithBatchInHand returns an open fixture with a stock of 9 shirts, of which a
// hold has taken 2. The journal's worker has the hold's event in hand, and cannot append
// it until it is unblocked.
func newFixtureWithBatchInHand(t *testing.T) (f *fixture, slow *slowJournal, hold string) {
	t.Helper()
	f = newFixture(t)
	f.addStock("shirt", 9)
	f.JournalEverything()
	slow = f.blockJournal(func() { hold = f.createHold("shirt", 2) })
	return f, slow, hold
}

// loseHold gives Redis the state that it had before that hold, as an older copy of its
// data would.
func (f *fixture) loseHold(hold string) {
	f.T.Helper()
	f.removeEntry()
	f.RedisCommand("HSET", "inventory.meta", "seq", 1, "stock:shirt", 9)
	f.RedisCommand("SET", "stock:shirt", 9)
	f.RedisCommand("DEL", "hold:"+hold)
	f.RedisCommand("ZREM", "holds:due", hold)
}

// TestRestoreWaitsForTheBatchInHand empties a Redis while the journal's worker has events
// in hand that it could not append yet. They were acknowledged to clients, so the
// restored Redis must have them. The same holds for a Redis that restarted without its
// newest events, although it has every event of the journal.
func TestRestoreWaitsForTheBatchInHand(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *fixture, hold string){
		"Redis was emptied": func(f *fixture, _ string) { f.RedisCommand("FLUSHALL") },
		"Redis restarted without its newest event": func(f *fixture, hold string) {
			f.loseHold(hold)
			f.restart()
		},
	}
	for name, lose := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, journal, hold := newFixtureWithBatchInHand(t)
			lose(f, hold)
			other := f.newProcess()
			ended := make(chan error, 1)
			go func() { ended <- f.reconcile(other) }()
			journal.await("advisory", func() bool { return len(ended) > 0 })
			journal.unblock()
			must(t, <-ended)
			f.WantStock(t, "shirt", 7)
			must(t, errorOf(other.Confirm(f.Ctx, commands.Confirm{HoldID: hold, PaymentRef: "p"})))
			f.AwaitJournaled()
		})
	}
}

// TestHeldJournalKeepsItsSessionBusy checks that the session of the journal's lease runs
// queries while a restore does other things. Postgres would otherwise end it.
func TestHeldJournalKeepsItsSessionBusy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	hold, err := f.recovery.holdJournal(f.Ctx)
	must(t, err)
	defer hold.release()
	conn := testenv.Connect(t, f.Postgres)
	var began time.Time
	testenv.Eventually(t, 2*worker.AbsenceMax, func() (bool, string) {
		var query time.Time
		const last = `SELECT query_start FROM pg_stat_activity WHERE pid = $1`
		err := conn.QueryRow(f.Ctx, last, hold.lease.Conn.PgConn().PID()).Scan(&query)
		if began.IsZero() {
			began = query
		}
		return err == nil && query.After(began), fmt.Sprintf("its last query began at %s (%v)", query, err)
	})
}
