package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// notes is a projection that writes down which events it was given, and does to some what a test asks for.
func (p *plant) notes(fault func(Event) error) Projection {
	p.t.Helper()
	return Projection{
		Name: "notes", Tables: []string{"notes"}, Schema: `CREATE TABLE IF NOT EXISTS notes (seq bigint PRIMARY KEY, hold_id text NOT NULL)`, Key: ByHold,
		Wants: []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			write := PerEvent(func(e Event, sql *pgx.Batch) error {
				sql.Queue(`INSERT INTO notes VALUES ($1, $2)`, e.Seq, e.HoldID)
				return nil
			})
			if err := write(ctx, tx, batch); err != nil {
				return err
			}
			for _, e := range batch {
				if err := fault(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func healthy(Event) error { return nil }

// TestParking holds that one bad event is parked with the later ones of its key, and that everything else is applied,
// however the batches fall.
func TestParking(t *testing.T) {
	t.Parallel()
	faults := map[string]func(Event) error{
		"an error":  func(e Event) error { return failFor(e, errors.New("cannot be")) },
		"a panic":   func(e Event) error { panicFor(e); return nil },
		"bad data":  func(e Event) error { return failFor(e, &pgconn.PgError{Code: "22003", Message: "cannot be"}) },
		"a wrapped": func(e Event) error { return failFor(e, fmt.Errorf("deep: %w", errors.New("cannot be"))) },
	}
	for name, fault := range faults {
		for _, batchMax := range []int{1, 4, 100} {
			t.Run(fmt.Sprintf("%s, batches of %d", name, batchMax), func(t *testing.T) {
				t.Parallel()
				p := newPlant(t)
				p.journal(created("a", 1), created("bad", 1), created("c", 1), confirmed("a", 1), confirmed("bad", 1), cancelled("c", 1, "requested"))
				projection := p.notes(fault)
				p.run(batchMax, projection)
				p.await(projection)
				if got, want := p.rows("notes"), "(1,a)\n(3,c)\n(4,a)\n(6,c)"; got != want {
					t.Errorf("applied %q, want %q", got, want)
				}
				seqs, texts := p.parked("notes")
				if !slices.Equal(seqs, []int64{2, 5}) || !strings.Contains(texts[0], "cannot be") || !strings.Contains(texts[1], "waits behind") {
					t.Errorf("parked %v with %q, want 2 for its fault and 5 behind it", seqs, texts)
				}
				var stack string
				if err := p.db.QueryRow(p.ctx, `SELECT stack FROM dead_letters WHERE seq = 2`).Scan(&stack); err != nil || (stack != "") != (name == "a panic") {
					t.Errorf("stack: got %q (%v)", stack, err)
				}
			})
		}
	}
}

func failFor(e Event, err error) error {
	if e.HoldID == "bad" {
		return err
	}
	return nil
}

func panicFor(e Event) {
	if e.HoldID == "bad" {
		panic("cannot be")
	}
}

// TestUnreadableEvents holds that an unknown type and a payload that is not whole are parked by those who cannot pass
// them over, and that a type which a projection merely does not want is passed over.
func TestUnreadableEvents(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(created("a", 1), stocked(1))
	p.journalRaw("HOLD_TRANSFERRED", `{"hold_id":"a","sku":"shirt"}`)
	p.journalRaw(events.TypeHoldCreated, `{"hold_id":"x"}`)
	p.journalRaw(events.TypeHoldCreated, `null`)
	p.journal(confirmed("a", 1), created("b", 1))
	projection := p.notes(healthy)
	p.run(0, projection)
	p.await(projection)
	if got, want := p.rows("notes"), "(1,a)\n(7,b)"; got != want {
		t.Errorf("applied %q, want %q", got, want)
	}
	if seqs, texts := p.parked("notes"); !slices.Equal(seqs, []int64{3, 4, 5, 6}) {
		t.Errorf("parked %v with %q, want 3 to 6: 6 waits behind 3", seqs, texts)
	}
}

// TestTransientFaults holds that what will pass by itself parks nothing: the line begins again at its checkpoint.
func TestTransientFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]error{
		"deadlock":      &pgconn.PgError{Code: "40P01"},
		"shutdown":      &pgconn.PgError{Code: "57P01"},
		"disk full":     &pgconn.PgError{Code: "53100"},
		"missing table": &pgconn.PgError{Code: "42P01"},
		"cancelled":     fmt.Errorf("apply: %w", context.Canceled),
		"too late":      context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.journal(created("a", 1), created("b", 1))
			var failures atomic.Int64
			projection := p.notes(func(Event) error {
				if failures.Add(1) <= 2 {
					return fault
				}
				return nil
			})
			p.run(0, projection)
			p.await(projection)
			if seqs, texts := p.parked("notes"); len(seqs) > 0 {
				t.Errorf("parked %v with %q, want nothing", seqs, texts)
			}
			if got, want := p.rows("notes"), "(1,a)\n(2,b)"; got != want {
				t.Errorf("applied %q, want %q", got, want)
			}
		})
	}
}

// TestKilledConnections holds that a runner whose session is cut again and again applies each event once.
func TestKilledConnections(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	for i := range 60 {
		p.journal(created(fmt.Sprint("h", i), 1))
	}
	var pid atomic.Int64
	projection := p.notes(healthy)
	apply := projection.Apply
	projection.Apply = func(ctx context.Context, tx pgx.Tx, batch []Event) error {
		pid.Store(int64(tx.Conn().PgConn().PID()))
		return apply(ctx, tx, batch)
	}
	p.run(2, projection)
	for range 5 {
		victim := pid.Swap(0)
		if victim != 0 {
			p.exec(`SELECT pg_terminate_backend($1)`, victim)
		}
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			seq, err := events.ReadCheckpoint(p.ctx, p.db, "notes", "main")
			return pid.Load() != 0 || err == nil && seq == p.seq, "nothing is applied"
		})
	}
	p.await(projection)
	if got := strings.Count(p.rows("notes"), "("); got != 60 {
		t.Errorf("applied %d events, want 60", got)
	}
	if seqs, texts := p.parked("notes"); len(seqs) > 0 {
		t.Errorf("parked %v with %q, want nothing", seqs, texts)
	}
}

// TestAddedProjection adds a projection to a journal with history, while the others go on: it makes its table, and catches
// up from the first event by itself.
func TestAddedProjection(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	live := func(n int) {
		for i := range n {
			hold := fmt.Sprint("hold-", p.seq, "-", i)
			p.journal(stocked(2), created(hold, 1), confirmed(hold, 1))
		}
	}
	live(100)
	before := []Projection{Holds(), Orders(), StockLevels()}
	_, stop := p.run(7, before...)
	p.await(before...)
	stop()
	p.exec(`DROP TABLE IF EXISTS sku_hours`) // as before a build that knows it
	p.exec(`DELETE FROM checkpoints WHERE projection = 'sku_hours'`)
	p.run(7, append(before, SKUHours())...)
	live(50)
	p.await(append(before, SKUHours())...)
	var reserved, sold int64
	if err := p.db.QueryRow(p.ctx, `SELECT sum(reserved)::bigint, sum(sold)::bigint FROM sku_hours`).Scan(&reserved, &sold); err != nil {
		t.Fatal(err)
	}
	if reserved != 150 || sold != 150 {
		t.Errorf("the new table has %d units reserved and %d sold, want 150 of each: history and what came since", reserved, sold)
	}
	if seqs, _ := p.parked("sku_hours"); len(seqs) != 0 {
		t.Errorf("events %v were parked", seqs)
	}
}

// TestHole holds that a missing event stops a projection, which says so.
func TestHole(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(created("a", 1), created("b", 1), created("c", 1))
	p.exec(`DELETE FROM events WHERE seq = 2`)
	projection := p.notes(healthy)
	lines, _ := p.run(0, projection)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := lines[0].Status()
		return strings.Contains(status.Error, events.ErrHole.Error()), fmt.Sprintf("%+v", status)
	})
	if seq, err := events.ReadCheckpoint(p.ctx, p.db, "notes", "main"); seq > 1 || err != nil {
		t.Errorf("the checkpoint is at %d (%v), beyond the hole", seq, err)
	}
}

// TestDetachedPart holds that a projection which needs events that were detached stops, and says how to get them back.
func TestDetachedPart(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.exec(`DROP TABLE events_1`)
	for _, bounds := range []string{"1_2", "3_100"} {
		first, end, _ := strings.Cut(bounds, "_")
		last, _ := strconv.Atoi(end)
		p.exec(fmt.Sprintf(`CREATE TABLE events_%[1]s PARTITION OF events FOR VALUES FROM (%[1]s) TO (%[2]d)`, first, last+1))
	}
	p.journal(created("a", 1), created("b", 1), created("c", 1))
	stream := events.Reader{Name: "stream", Pool: "main", Seq: 3}
	if _, err := events.DetachPart(p.ctx, p.db, events.Part{Name: "events_1", First: 1, Last: 2}, stream); err != nil {
		t.Fatal(err)
	}
	lines, _ := p.run(0, p.notes(healthy))
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := lines[0].Status()
		return strings.Contains(status.Error, "stockstream journal attach events_1"), fmt.Sprintf("%+v", status)
	})
	if rows := p.rows("notes"); rows != "" {
		t.Errorf("it applied %s", rows)
	}
	if _, err := events.AttachPart(p.ctx, p.db, "events_1"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		seq, err := events.ReadCheckpoint(p.ctx, p.db, "notes", "main")
		return seq == 3, fmt.Sprintf("notes is at %d (%v)", seq, err)
	})
}

// TestAfter holds how a delivery is trimmed to what is new.
func TestAfter(t *testing.T) {
	t.Parallel()
	batch := func(seqs ...int64) (list []events.Envelope) {
		for _, seq := range seqs {
			list = append(list, events.Envelope{Seq: seq})
		}
		return list
	}
	tests := []struct {
		checkpoint int64
		batch      []events.Envelope
		fresh      int
		hole       bool
	}{
		{0, batch(1, 2, 3), 3, false},
		{2, batch(1, 2, 3), 1, false},
		{3, batch(1, 2, 3), 0, false},
		{9, batch(1, 2, 3), 0, false},
		{0, nil, 0, false},
		{0, batch(2, 3), 0, true},
		{1, batch(2, 4), 0, true},
	}
	for _, test := range tests {
		fresh, err := eventsAfter(test.checkpoint, test.batch)
		if errors.Is(err, events.ErrHole) != test.hole || err == nil && len(fresh) != test.fresh {
			t.Errorf("after %d of %v: got %v (%v), want %d fresh, hole: %t", test.checkpoint, test.batch, fresh, err, test.fresh, test.hole)
		}
	}
}

// TestLag measures what is not applied yet.
func TestLag(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(created("a", 1), created("b", 1), created("c", 1))
	p.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 2), ('orders', 'main', 3)`)
	lags, err := ReadLag(p.ctx, p.db, "main", BuiltIn()...)
	if err != nil || len(lags) != len(BuiltIn()) {
		t.Fatal(lags, err)
	}
	for i, want := range []int64{1, 0, 3, 3} {
		if lags[i].Events != want || (lags[i].Age > time.Hour) != (want > 0) {
			t.Errorf("%s: got %+v, want %d events behind", lags[i].Projection, lags[i], want)
		}
	}
}

// TestCheckpointPutBack holds that a delivery which goes on from where the checkpoint was, but no longer is, is taken
// for what it is, and not for a hole in the journal.
func TestCheckpointPutBack(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	projection := p.notes(healthy)
	if err := CreateTables(p.ctx, p.db, projection); err != nil {
		t.Fatal(err)
	}
	p.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('notes', 'main', 3)`)
	msg := message.NewMessage("", nil)
	msg.SetContext(p.ctx)
	never := func(*message.Message) ([]*message.Message, error) { panic("the batch was taken") }
	batch := &events.Batch{Pool: "main", After: 5, Events: []events.Envelope{{Pool: "main", Seq: 6}}}
	if err := applyFresh(msg, p.db, projection, batch, never); !errors.Is(err, events.ErrFenced) || errors.Is(err, events.ErrHole) {
		t.Errorf("got %v, want ErrFenced", err)
	}
}
