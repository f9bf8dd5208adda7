package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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

func containsText(s, part string) bool { return strings.Contains(s, part) }

// TestJournalKeepsOrder journals a backlog and what comes after it, in batches of any size, each event once.
func TestJournalKeepsOrder(t *testing.T) {
	t.Parallel()
	for _, batchMax := range []int{1, 7, 2000} {
		t.Run(fmt.Sprint(batchMax), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.append(50)
			line, _ := p.journal(batchMax)
			p.awaitJournal(50)
			p.append(50)
			p.awaitJournal(100)
			p.awaitAcknowledged()
			if status := line.Status(); status.State != worker.Running || status.Error != "" {
				t.Errorf("line: got %+v, want it running", status)
			}
			found, err := ReadEvents(p.ctx, p.db, "main", 97, 10)
			if err != nil || len(found) != 3 || found[0].Seq != 98 || found[2].HoldID != "h100" || found[2].SKU != "shirt" || found[2].At.UnixMilli() != 1764000000100 {
				t.Errorf("read: got %+v (%v)", found, err)
			}
			if event, err := found[2].Decode(); err != nil || event.(*events.HoldCreated).IdempotencyKey != "k100" {
				t.Errorf("decode: got %+v (%v)", event, err)
			}
			var named int
			if err := p.db.QueryRow(p.ctx, `SELECT count(*) FROM processed_events WHERE event_type = 'HOLD_CREATED' AND processed_at <= now()`).Scan(&named); err != nil || named != 100 {
				t.Errorf("processed_events has %d (%v), want 100", named, err)
			}
		})
	}
}

// TestForeignEntries holds that what commands did not write is parked, and holds nothing up. An entry that counts in
// the sequence but cannot be read is both: journaled, so that the journal stays dense, and parked.
func TestForeignEntries(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(1)
	foreign := p.raw(map[string]any{"hello": "world"})
	binary := p.raw(map[string]any{"payload": "\xff\x00", "seq": "x"})
	p.seq = 2
	broken := p.event(2)
	broken["payload"] = "{"
	unreadable := p.raw(broken)
	p.append(1)
	invented := p.raw(p.event(99)) // beyond the end of the log
	p.append(1)
	p.journal(0)
	p.awaitJournal(4)
	p.awaitAcknowledged()
	p.mu.Lock()
	defer p.mu.Unlock()
	var got []string
	for _, entry := range p.parked {
		got = append(got, entry.StreamID)
		if entry.Err == nil {
			t.Errorf("parked %s without a reason", entry.StreamID)
		}
	}
	if want := []string{foreign, binary, unreadable, invented}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("parked %v, want %v", got, want)
	}
	var payload string
	if err := p.db.QueryRow(p.ctx, `SELECT payload FROM events WHERE seq = 2`).Scan(&payload); err != nil || payload != "null" {
		t.Errorf("the unreadable event has the payload %q (%v), want null", payload, err)
	}
}

// TestHoleStopsTheLine holds that a missing event is never skipped, that the line says so, and that it goes on once
// the event is there.
func TestHoleStopsTheLine(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(2)
	later := p.event(4)
	third := p.event(3)
	id := p.raw(later)
	p.logEndsAt(4)
	line, stop := p.journal(0)
	p.awaitFault(line, ErrHole.Error())
	var count int64
	if err := p.db.QueryRow(p.ctx, `SELECT count(*) FROM events`).Scan(&count); err != nil || count > 2 {
		t.Errorf("the journal has %d events (%v), want at most 2", count, err)
	}
	stop()
	// The operator puts the log right: the missing event, and then what came after it.
	p.redis.XDel(p.ctx, events.MainPool.StreamKey(), id)
	p.raw(third)
	p.raw(later)
	p.journal(0)
	p.awaitJournal(4)
}

// TestForkInABatch holds that of two events with one seq neither is taken, when they come together.
func TestForkInABatch(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(2)
	p.raw(p.event(2))
	line, _ := p.journal(0)
	p.awaitFault(line, ErrFork.Error())
	var count int64
	if err := p.db.QueryRow(p.ctx, `SELECT count(*) FROM events`).Scan(&count); err != nil || count != 0 {
		t.Errorf("the journal has %d events (%v), want none", count, err)
	}
}

// TestForkStopsTheLine holds that an entry with the seq of a journaled event and another id stops the line, where it may be
// an event of another log, and that the line says which entry it is.
func TestForkStopsTheLine(t *testing.T) {
	t.Parallel()
	nothing := func(*plant) {}
	for name, test := range map[string]struct {
		seq           int64
		before, after func(p *plant)
	}{
		"at the journal's end":    {3, nothing, nothing},
		"in a log that is behind": {2, func(p *plant) { p.logEndsAt(2) }, nothing},
		"in another life":         {2, func(p *plant) { p.redis.HSet(p.ctx, events.MainPool.MetaKey(), "epoch", 2) }, nothing},
		"in a log that differs": {
			2, func(p *plant) { p.redis.Del(p.ctx, events.MainPool.StreamKey()) }, func(p *plant) { p.raw(p.event(3)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.journaled(3)
			test.before(p)
			id := p.raw(p.event(test.seq))
			test.after(p)
			line, _ := p.journal(0)
			p.awaitFault(line, ErrFork.Error())
			p.awaitFault(line, "XDEL inventory.events "+id)
		})
	}
}

// TestForeignSeq holds that an entry which no command wrote is parked whatever seq it carries, and that the events around it
// are journaled.
func TestForeignSeq(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		seq  int64
		late bool // the journal sees it together with what follows
	}{
		"of an old event":                       {1, false},
		"the next one":                          {6, false},
		"one that the log comes to, in between": {8, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.journaled(5)
			foreign := p.raw(p.event(test.seq))
			if !test.late {
				p.journal(0)
				p.awaitParked(1)
			}
			p.append(5)
			if test.late {
				p.journal(0)
			}
			p.awaitJournal(10)
			p.awaitAcknowledged()
			p.awaitParked(1)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.parked[0].StreamID != foreign {
				t.Errorf("parked %s, want %s", p.parked[0].StreamID, foreign)
			}
		})
	}
}

// TestRedelivery holds that entries which were journaled and never acknowledged count once.
func TestRedelivery(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(10)
	_, stop := p.journal(3)
	p.awaitJournal(10)
	p.awaitAcknowledged()
	stop()
	if err := p.redis.XGroupSetID(p.ctx, events.MainPool.StreamKey(), events.ConsumerGroup, "0").Err(); err != nil {
		t.Fatal(err)
	}
	p.append(5)
	p.journal(4)
	p.awaitJournal(15)
	p.awaitAcknowledged()
}

// TestTakeover holds that of two journals one works, and that the other goes on within seconds, without a hole or a
// repeat, when the first is stopped.
func TestTakeover(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	first, stopFirst := p.journal(2)
	testenv.Eventually(t, 5*time.Second, func() (bool, string) { return first.Status().State == worker.Running, "the first does not run" })
	second, _ := p.journal(2)
	p.append(9)
	p.awaitJournal(9)
	if got := second.Status().State; got != worker.Waiting {
		t.Errorf("the second is %s, want it waiting", got)
	}
	stopFirst()
	p.append(9)
	p.awaitJournal(18)
	if got := second.Status().State; got != worker.Running {
		t.Errorf("the second is %s, want it running", got)
	}
}

// TestOutages holds that the journal waits for Redis and for Postgres, and goes on by itself.
func TestOutages(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	testenv.Migrate(t, postgres.URL())
	p := newPlantOn(t, postgres.URL())
	line, _ := p.journal(0)
	p.append(5)
	p.awaitJournal(5)

	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	p.append(5)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { return line.Status().State == worker.Waiting, "the line has not noticed" })
	if err := postgres.Start(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.db = p.connect()
	p.awaitJournal(10)

	if err := p.server.Kill(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { return line.Status().State == worker.Waiting, "the line has not noticed" })
	if err := p.server.Start(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.append(5)
	p.awaitJournal(15)
	p.awaitAcknowledged()
}

// TestSilentPostgres holds that a journal and a reader whose Postgres has stopped to answer, with the connection open,
// notice, and go on when it answers again.
func TestSilentPostgres(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	proxy := testenv.NewProxy(t, net.JoinHostPort(p.config.Host, strconv.Itoa(int(p.config.Port))))
	_, port, err := net.SplitHostPort(proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	p.config = p.config.Copy()
	p.config.Port = uint16(number)
	journal, _ := p.journal(0)
	r := &reader{}
	p.read(r, NewPageCache(events.MainPool), "reader")
	p.append(5)
	p.awaitJournal(5)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) { return r.count() == 5, "the reader has not read" })
	proxy.Silence(true)
	p.append(5)
	testenv.Eventually(t, 15*time.Second, func() (bool, string) {
		return journal.Status().State == worker.Waiting, fmt.Sprintf("%+v", journal.Status())
	})
	proxy.Silence(false)
	proxy.Cut()
	p.awaitJournal(10)
	testenv.Eventually(t, 20*time.Second, func() (bool, string) { return r.count() == 10, fmt.Sprintf("read %d of 10", r.count()) })
}

// TestFence holds that a checkpoint that somebody else has moved stops a runner.
func TestFence(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	tx, err := p.db.Begin(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.MoveCheckpoint(p.ctx, tx, "x", "main", 0, 5); err != nil {
		t.Fatal(err)
	}
	if err := worker.MoveCheckpoint(p.ctx, tx, "x", "main", 0, 6); !errors.Is(err, worker.ErrFenced) {
		t.Errorf("got %v, want ErrFenced", err)
	}
	if seq, err := worker.ReadCheckpoint(p.ctx, tx, "x", "main"); seq != 5 || err != nil {
		t.Errorf("got %d (%v), want 5", seq, err)
	}
}

// TestReadBeforeRedisFell holds that what was read is journaled though Redis is gone since, or came back with less: it may be
// all that is left of it.
func TestReadBeforeRedisFell(t *testing.T) {
	t.Parallel()
	for name, fall := range map[string]func(p *plant, read []events.Entry){
		"it is gone": func(p *plant, _ []events.Entry) {
			if err := p.server.Kill(); err != nil {
				p.t.Error(err)
			}
		},
		"it has less": func(p *plant, read []events.Entry) {
			for _, entry := range read {
				p.redis.XDel(p.ctx, events.MainPool.StreamKey(), entry.StreamID)
			}
			p.logEndsAt(5)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.journaled(5)
			p.append(3)
			read := p.entries()[5:]
			fall(p, read)
			lease, err := worker.AcquireLease(p.ctx, p.config, "journal/main")
			if err != nil {
				t.Fatal(err)
			}
			defer lease.Release()
			delivery := worker.NewDelivery(p.ctx, "batch", &StreamBatch{Pool: events.MainPool, Entries: read, Epoch: 1, Lease: lease})
			j := &Writer{Redis: p.redis, Log: slog.New(slog.DiscardHandler), Park: func(context.Context, pgx.Tx, []events.Entry) error {
				return errors.New("an event was parked")
			}}
			if err := j.Handle(delivery.Message); err != nil {
				t.Error(err)
			}
			p.awaitJournal(8)
		})
	}
}

// TestStrangerHidesNothing holds that a parked entry with an old seq at the stream's end hides no event before it: not from a
// journal that lost its last ones, and not from who asks for the stream's end.
func TestStrangerHidesNothing(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journaled(20)
	p.raw(p.event(3))
	_, stop := p.journal(0)
	p.awaitAcknowledged()
	p.awaitParked(1)
	stop()
	p.exec(`DELETE FROM events WHERE seq > 10`)
	p.exec(`UPDATE checkpoints SET seq = 10`)
	trimmer := &stream.Trimmer{Redis: p.redis, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)}
	if trouble, err := trimmer.Trim(p.ctx, 10); err != nil || trouble == "" || len(p.entries()) != 21 {
		t.Errorf("trim: got the trouble %q (%v), %d entries are left of 21", trouble, err, len(p.entries()))
	}
	if tail, err := stream.Tail(p.ctx, p.redis, events.MainPool); err != nil || tail != 20 {
		t.Errorf("the stream ends at seq %d (%v), want 20", tail, err)
	}
	p.journal(0)
	p.awaitJournal(20)
}

// TestForeignSeqInABacklog holds that an old seq is told from a fork in a batch that brings its event, too.
func TestForeignSeqInABacklog(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(50)
	p.raw(p.event(3))
	p.append(50)
	p.journal(0)
	p.awaitJournal(100)
	p.awaitParked(1)
}
