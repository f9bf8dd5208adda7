package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestJournalHasEveryEventOnceAndInOrder checks that the journal takes a backlog and the
// events after it, each once and in order, with batches of any size.
func TestJournalHasEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	for _, batchMax := range []int{1, 7, 2000} {
		t.Run(fmt.Sprint(batchMax), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendEvents(50)
			w, _ := f.runJournal(batchMax)
			f.awaitJournal(50)
			f.appendEvents(50)
			f.awaitJournal(100)
			f.awaitAcknowledged()
			assertRunning(t, w)
			assertLastEvents(t, f)
			const query = `
				SELECT count(*) FROM processed_events WHERE event_type = 'HOLD_CREATED' AND processed_at <= now()`
			if got := f.queryInt(query); got != 100 {
				t.Errorf("processed_events: got %d rows, want 100", got)
			}
		})
	}
}

// assertLastEvents checks that the events after seq 97 are read from the journal as they
// were appended.
func assertLastEvents(t *testing.T, f *fixture) {
	t.Helper()
	found, err := ReadEvents(f.ctx, f.db, "main", 97, 10)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 3 {
		t.Fatalf("events after 97: got %d, want 3", len(found))
	}
	if got := found[0].Seq; got != 98 {
		t.Errorf("first event after 97: got seq %d, want 98", got)
	}
	last := found[2]
	if last.HoldID != "h100" {
		t.Errorf("hold id of the last event: got %q, want h100", last.HoldID)
	}
	if last.SKU != "shirt" {
		t.Errorf("SKU of the last event: got %q, want shirt", last.SKU)
	}
	if got := last.At.UnixMilli(); got != 1764000000100 {
		t.Errorf("time of the last event: got %d ms, want 1764000000100", got)
	}
	event, err := last.Decode()
	if err != nil {
		t.Fatalf("decode the last event: %v", err)
	}
	if got := event.(*events.HoldCreated).IdempotencyKey; got != "k100" {
		t.Errorf("idempotency key of the last event: got %q, want k100", got)
	}
}

// TestForeignEntriesAreParked checks that entries that no command wrote are parked and
// delay no event. An entry that has the next seq but an unreadable payload is parked,
// too, and journaled with a null payload, so that the journal stays dense.
func TestForeignEntriesAreParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(1)
	noEvent := f.appendEntry(map[string]any{"hello": "world"})
	binary := f.appendEntry(map[string]any{"payload": "\xff\x00", "seq": "x"})
	f.seq = 2
	fields := eventFields(2)
	fields["payload"] = "{"
	unreadable := f.appendEntry(fields)
	f.appendEvents(1)
	aboveHead := f.appendEntry(eventFields(99))
	f.appendEvents(1)
	f.runJournal(0)
	f.awaitJournal(4)
	f.awaitAcknowledged()
	f.mu.Lock()
	defer f.mu.Unlock()
	var got []string
	for _, entry := range f.parked {
		got = append(got, entry.StreamID)
		if entry.Err == nil {
			t.Errorf("parked entry %s: got no reason, want one", entry.StreamID)
		}
	}
	if want := []string{noEvent, binary, unreadable, aboveHead}; !slices.Equal(got, want) {
		t.Errorf("parked entries: got %v, want %v", got, want)
	}
	var payload string
	if err := f.db.QueryRow(f.ctx, `SELECT payload FROM events WHERE seq = 2`).Scan(&payload); err != nil {
		t.Fatal(err)
	}
	if payload != "null" {
		t.Errorf("payload of the unreadable event: got %q, want null", payload)
	}
}

// wantFault checks the recorded reason why the journal stopped: "" for none, or a part of
// it.
func (f *fixture) wantFault(want string) {
	f.t.Helper()
	testenv.Eventually(f.t, 10*time.Second, func() (bool, string) {
		recorded, err := ReadPoolRecord(f.ctx, f.db, "main")
		detail := fmt.Sprintf("the recorded fault is %q (%v), want %q", recorded.Fault, err, want)
		asWanted := strings.Contains(recorded.Fault, want) && (want != "" || recorded.Fault == "")
		return err == nil && asWanted, detail
	})
}

// TestMissingEventStopsTheJournal checks that the journal never skips a missing event,
// that it takes the events before it, that its status and the record in Postgres name the
// hole, and that it continues once the event is on the stream.
func TestMissingEventStopsTheJournal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(2)
	fourth := eventFields(4)
	third := eventFields(3)
	fourthID := f.appendEntry(fourth)
	f.setHead(4)
	w, stop := f.runJournal(0)
	f.awaitFault(w, ErrHole.Error())
	f.awaitJournal(2)
	f.wantFault("the journal ends at seq 2, but the stream continues with seq 4")
	stop()
	// The operator repairs the stream: first the missing event, then the one after it.
	f.redis.XDel(f.ctx, events.MainPool.StreamKey(), fourthID)
	f.appendEntry(third)
	f.appendEntry(fourth)
	f.runJournal(0)
	f.awaitJournal(4)
	f.wantFault("")
}

// TestFaultOfAnEmptiedStreamIsCleared checks that the record of a hole is removed if the
// journal has nothing left to read.
func TestFaultOfAnEmptiedStreamIsCleared(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(2)
	id := f.appendEntry(eventFields(4))
	f.setHead(4)
	f.runJournal(0)
	f.wantFault(ErrHole.Error())
	f.redis.XDel(f.ctx, events.MainPool.StreamKey(), id)
	f.wantFault("")
}

// TestEntriesBeforeAForkAreSortedAgain checks that the entries before a fork are sorted
// without those behind it. The entry with seq 4 counts as foreign only because seq 2
// follows, which the journal cannot take.
func TestEntriesBeforeAForkAreSortedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(1)
	f.appendEntry(map[string]any{"hello": "world"})
	f.appendEntry(eventFields(4))
	f.appendEntry(eventFields(2))
	f.appendEntry(eventFields(2))
	f.setHead(4)
	w, _ := f.runJournal(0)
	f.awaitFault(w, ErrFork.Error())
	f.awaitJournal(1)
	f.awaitParked(1)
}

// TestTwoEventsOfOneSeqInABatchAreRefused checks that the journal takes neither of two
// events that have the same seq and come in one batch, but the event before them.
func TestTwoEventsOfOneSeqInABatchAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(2)
	f.appendEntry(eventFields(2))
	w, _ := f.runJournal(0)
	f.awaitFault(w, ErrFork.Error())
	f.awaitJournal(1)
	f.wantFault(ErrFork.Error())
}

// TestForkStopsTheJournal checks that an entry with the seq of a journaled event but
// another event id stops the journal if it may come from another log, and that the
// worker's status names the entry.
func TestForkStopsTheJournal(t *testing.T) {
	t.Parallel()
	noChange := func(*fixture) {}
	for name, test := range map[string]struct {
		seq    int64
		before func(f *fixture)
		after  func(f *fixture)
	}{
		"seq of the journal's last event": {
			seq:    3,
			before: noChange,
			after:  noChange,
		},
		"log head behind the journal": {
			seq:    2,
			before: func(f *fixture) { f.setHead(2) },
			after:  noChange,
		},
		"log of another epoch": {
			seq:    2,
			before: func(f *fixture) { f.redis.HSet(f.ctx, events.MainPool.MetaKey(), "epoch", 2) },
			after:  noChange,
		},
		"log with another last event": {
			seq:    2,
			before: func(f *fixture) { f.redis.Del(f.ctx, events.MainPool.StreamKey()) },
			after:  func(f *fixture) { f.appendEntry(eventFields(3)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendAndJournal(3)
			test.before(f)
			id := f.appendEntry(eventFields(test.seq))
			test.after(f)
			w, _ := f.runJournal(0)
			f.awaitFault(w, ErrFork.Error())
			f.awaitFault(w, "XDEL inventory.events "+id)
		})
	}
}

// TestForeignEntryWithASeqIsParked checks that an entry that no command wrote is parked
// whatever seq it carries, and that the events around it are journaled.
func TestForeignEntryWithASeqIsParked(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		seq     int64
		inBatch bool // whether the journal reads the entry in one batch with the events after it
	}{
		"seq of an old event":         {seq: 1},
		"next seq":                    {seq: 6},
		"seq assigned while it waits": {seq: 8, inBatch: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendAndJournal(5)
			foreign := f.appendEntry(eventFields(test.seq))
			if !test.inBatch {
				f.runJournal(0)
				f.awaitParked(1)
			}
			f.appendEvents(5)
			if test.inBatch {
				f.runJournal(0)
			}
			f.awaitJournal(10)
			f.awaitAcknowledged()
			f.awaitParked(1)
			f.mu.Lock()
			defer f.mu.Unlock()
			if got := f.parked[0].StreamID; got != foreign {
				t.Errorf("parked entry: got %s, want %s", got, foreign)
			}
		})
	}
}

// TestRedeliveredEntriesCountOnce checks that entries that were journaled but not
// acknowledged are not journaled a second time.
func TestRedeliveredEntriesCountOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(10)
	_, stop := f.runJournal(3)
	f.awaitJournal(10)
	f.awaitAcknowledged()
	stop()
	f.setGroup("0")
	f.appendEvents(5)
	f.runJournal(4)
	f.awaitJournal(15)
	f.awaitAcknowledged()
}

// TestSecondJournalTakesOver checks that only one of two journals runs, and that the
// other continues within seconds, without a hole or a repeated event, when the first one
// is stopped.
func TestSecondJournalTakesOver(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	first, stopFirst := f.runJournal(2)
	f.awaitState(first, worker.Running)
	second, _ := f.runJournal(2)
	f.appendEvents(9)
	f.awaitJournal(9)
	if got := second.Status().State; got != worker.Waiting {
		t.Errorf("second journal while the first runs: got state %s, want %s", got, worker.Waiting)
	}
	stopFirst()
	f.appendEvents(9)
	f.awaitJournal(18)
	if got := second.Status().State; got != worker.Running {
		t.Errorf("second journal after the first stopped: got state %s, want %s", got, worker.Running)
	}
}

// TestJournalSurvivesOutages checks that the journal waits while Postgres or Redis is
// down, and continues by itself when the server is back.
func TestJournalSurvivesOutages(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	testenv.Migrate(t, postgres.URL())
	f := newFixtureOn(t, postgres.URL())
	w, _ := f.runJournal(0)
	f.appendEvents(5)
	f.awaitJournal(5)

	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(5)
	f.awaitState(w, worker.Waiting)
	if err := postgres.Start(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.db = f.connect()
	f.awaitJournal(10)

	if err := f.server.Kill(); err != nil {
		t.Fatal(err)
	}
	f.awaitState(w, worker.Waiting)
	if err := f.server.Start(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(5)
	f.awaitJournal(15)
	f.awaitAcknowledged()
}

// TestSilentPostgresIsNoticed checks that the journal and a reader notice a Postgres that
// stops answering while its connections stay open, and that both continue when it answers
// again.
func TestSilentPostgresIsNoticed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	proxy := testenv.NewProxy(t, net.JoinHostPort(f.config.Host, strconv.Itoa(int(f.config.Port))))
	_, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	f.config = f.config.Copy()
	f.config.Port = uint16(number)
	journal, _ := f.runJournal(0)
	reader := &countingReader{}
	f.runReader(reader, NewPageCache(events.MainPool), "reader")
	f.appendEvents(5)
	f.awaitJournal(5)
	reader.await(t, 5)
	proxy.Silence(true)
	f.appendEvents(5)
	f.awaitState(journal, worker.Waiting)
	proxy.Silence(false)
	proxy.Cut()
	f.awaitJournal(10)
	reader.await(t, 10)
}

// TestBatchIsJournaledAfterRedisIsLost checks that entries that were already read are
// journaled even if Redis has been lost since then, or came back without them: the batch
// may be the only copy left.
func TestBatchIsJournaledAfterRedisIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(f *fixture, batch []events.Entry){
		"Redis is down": func(f *fixture, _ []events.Entry) {
			if err := f.server.Kill(); err != nil {
				f.t.Error(err)
			}
		},
		"Redis lacks the entries": func(f *fixture, batch []events.Entry) {
			for _, entry := range batch {
				f.redis.XDel(f.ctx, events.MainPool.StreamKey(), entry.StreamID)
			}
			f.setHead(5)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendAndJournal(5)
			f.appendEvents(3)
			entries := f.streamEntries()[5:]
			lose(f, entries)
			lease, err := worker.AcquireLease(f.ctx, f.config, "journal/main")
			if err != nil {
				t.Fatal(err)
			}
			defer lease.Release()
			batch := &StreamBatch{
				Pool:    events.MainPool,
				Entries: entries,
				Epoch:   1,
				Lease:   lease,
			}
			writer := &Writer{
				Redis: f.redis,
				Log:   slog.New(slog.DiscardHandler),
				Park: func(context.Context, pgx.Tx, []events.Entry) error {
					return errors.New("an event was parked")
				},
			}
			if err := writer.Handle(worker.NewDelivery(f.ctx, "batch", batch).Message); err != nil {
				t.Errorf("handle the batch: %v", err)
			}
			f.awaitJournal(8)
		})
	}
}

// TestForeignEntryHidesNoEventBeforeIt checks that a parked entry with an old seq at the
// end of the stream hides none of the events before it from the trimmer, from Tail, or
// from a journal that lost its last events.
func TestForeignEntryHidesNoEventBeforeIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendAndJournal(20)
	f.appendEntry(eventFields(3))
	_, stop := f.runJournal(0)
	f.awaitAcknowledged()
	f.awaitParked(1)
	stop()
	f.exec(`DELETE FROM events WHERE seq > 10`)
	f.exec(`UPDATE checkpoints SET seq = 10`)
	trimmer := &stream.Trimmer{
		Redis: f.redis,
		Pool:  events.MainPool,
		Log:   slog.New(slog.DiscardHandler),
	}
	trouble, err := trimmer.Trim(f.ctx, 10)
	if err != nil {
		t.Errorf("trim: %v", err)
	}
	if trouble == "" {
		t.Error("trim: got no trouble, want it reported that the journal lacks events")
	}
	if got := len(f.streamEntries()); got != 21 {
		t.Errorf("entries after the trim: got %d, want 21", got)
	}
	tail, err := stream.Tail(f.ctx, f.redis, events.MainPool)
	if err != nil {
		t.Errorf("tail: %v", err)
	}
	if tail != 20 {
		t.Errorf("tail: got seq %d, want 20", tail)
	}
	f.runJournal(0)
	f.awaitJournal(20)
}

// TestForeignEntryInABacklogIsParked checks that an entry with an old seq is not reported
// as a fork even if the event of that seq is in the same batch.
func TestForeignEntryInABacklogIsParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(50)
	f.appendEntry(eventFields(3))
	f.appendEvents(50)
	f.runJournal(0)
	f.awaitJournal(100)
	f.awaitParked(1)
}
