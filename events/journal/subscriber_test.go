package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// insertAdjustments inserts the next n events into the journal's table, all of them stock
// adjustments, and notifies the readers.
func (f *fixture) insertAdjustments(n int) {
	f.t.Helper()
	f.exec(`
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', seq, gen_random_uuid(), 'STOCK_ADJUSTED', 'shirt', '',
		       '{"sku":"shirt","delta":1,"reason":"r"}', '{}', now()
		FROM generate_series($1::bigint, $2) AS seq`, f.seq+1, f.seq+int64(n))
	f.seq += int64(n)
	f.exec(`SELECT pg_notify($1, 'main')`, notifyChannel)
}

// countingReader is a reader of the journal that collects the seqs of its events and
// moves its checkpoint.
type countingReader struct {
	mu       sync.Mutex
	seqs     []int64
	failures int // how many batches it refuses first
}

func (r *countingReader) handle(msg *message.Message) error {
	batch := worker.BatchOf[Batch](msg)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failures > 0 {
		r.failures--
		return errors.New("refused on purpose")
	}
	ctx := msg.Context()
	return pgx.BeginFunc(ctx, batch.Lease.Conn, func(tx pgx.Tx) error {
		for _, e := range batch.Events {
			r.seqs = append(r.seqs, e.Seq)
		}
		first := batch.Events[0].Seq
		last := batch.Events[len(batch.Events)-1].Seq
		return worker.MoveCheckpoint(ctx, tx, "reader", batch.Pool, first-1, last)
	})
}

func (r *countingReader) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seqs)
}

// await waits until the reader has read n events.
func (r *countingReader) await(t *testing.T, n int) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		return r.count() == n, fmt.Sprintf("the reader has read %d events, want %d", r.count(), n)
	})
}

// subscriberConfig returns the settings of a reader of the fixture's journal.
func (f *fixture) subscriberConfig(name string, pages *PageCache) SubscriberConfig {
	return SubscriberConfig{
		Postgres: f.config,
		Pool:     events.MainPool,
		Pages:    pages,
		Reader:   name,
		Log:      slog.New(slog.DiscardHandler),
	}
}

// runReader runs a reader of the journal until stop is called.
func (f *fixture) runReader(r *countingReader, pages *PageCache, name string) (stop func()) {
	f.t.Helper()
	config := f.subscriberConfig(name, pages)
	config.BatchMax = 700
	return testenv.RunRouter(f.t, func(router *message.Router) {
		handler := router.AddConsumerHandler(name, Topic(events.MainPool), NewSubscriber(config), r.handle)
		handler.AddMiddleware(worker.ReportFault)
	})
}

// TestReaderGetsEveryEventOnceAndInOrder checks that a reader is given every event once
// and in order, from full pages and from the journal's end, and that it continues at its
// checkpoint after a refused batch and after a restart.
func TestReaderGetsEveryEventOnceAndInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertAdjustments(4500)
	reader := &countingReader{failures: 2}
	pages := NewPageCache(events.MainPool)
	stop := f.runReader(reader, pages, "reader")
	reader.await(t, 4500)
	f.insertAdjustments(3)
	reader.await(t, 4503)
	stop()
	f.insertAdjustments(1700)
	f.runReader(reader, pages, "reader")
	reader.await(t, 6203)
	for i, got := range reader.seqs {
		if want := int64(i + 1); got != want {
			t.Fatalf("event %d of the reader: got seq %d, want %d", i+1, got, want)
		}
	}
}

// TestReaderNoticesACheckpointPutBack checks that a reader at the journal's end notices
// that its checkpoint was put back, although no new event is delivered to it, and that it
// reads from there again.
func TestReaderNoticesACheckpointPutBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertAdjustments(5)
	reader := &countingReader{}
	f.runReader(reader, NewPageCache(events.MainPool), "reader")
	awaitCheckpoint := func(want int64) {
		t.Helper()
		testenv.Eventually(t, 20*time.Second, func() (bool, string) {
			got, err := worker.ReadCheckpoint(f.ctx, f.db, "reader", "main")
			return got == want, fmt.Sprintf("the reader's checkpoint is %d (%v), want %d", got, err, want)
		})
	}
	awaitCheckpoint(5)
	f.exec(`UPDATE checkpoints SET seq = 2 WHERE projection = 'reader'`)
	reader.await(t, 8) // five events, and three of them again
	awaitCheckpoint(5)
}

// TestReadersShareFullPages checks that the readers of one process are given the same
// copy of a full page, which is read from Postgres once, and that Forget drops it.
func TestReadersShareFullPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertAdjustments(2*pageEvents + 5)
	pages := NewPageCache(events.MainPool)
	var readers sync.WaitGroup
	var firsts [4]*events.Envelope // the first event that each reader was given
	for i := range firsts {
		conn := f.connect()
		readers.Go(func() {
			first, last, err := f.readAllPages(pages, conn)
			if err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
			if last != f.seq {
				t.Errorf("reader %d: got events up to seq %d, want %d", i, last, f.seq)
			}
			firsts[i] = first
		})
	}
	readers.Wait()
	if firsts[0] == nil {
		t.Fatal("reader 0: got no event")
	}
	for i, first := range firsts {
		if first != firsts[0] {
			t.Errorf("reader %d: got a copy of its own of the first page, want the one of reader 0", i)
		}
	}
	pages.Forget()
	found, err := pages.Read(f.ctx, f.db, 0, 1)
	if err != nil {
		t.Fatalf("read after Forget: %v", err)
	}
	if len(found) != 1 {
		t.Fatalf("read after Forget: got %d events, want 1", len(found))
	}
	if &found[0] == firsts[0] {
		t.Error("read after Forget: got the old copy of the page, want it read again")
	}
}

// readAllPages reads the journal to its end through a page cache. It returns the first
// event and the last seq, and fails if an event is missing or out of order.
func (f *fixture) readAllPages(
	pages *PageCache, conn *pgx.Conn,
) (first *events.Envelope, last int64, err error) {
	for {
		found, err := pages.Read(f.ctx, conn, last, 300)
		if err != nil || len(found) == 0 {
			return first, last, err
		}
		if first == nil {
			first = &found[0]
		}
		for _, e := range found {
			if e.Seq != last+1 {
				return first, last, fmt.Errorf("got seq %d after %d, want %d", e.Seq, last, last+1)
			}
			last = e.Seq
		}
	}
}
