package journal

import (
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

// fill writes events straight into the journal.
func (p *plant) fill(n int) {
	p.t.Helper()
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', seq, gen_random_uuid(), 'STOCK_ADJUSTED', 'shirt', '', '{"sku":"shirt","delta":1,"reason":"r"}', '{}', now()
		FROM generate_series($1::bigint, $2) AS seq`
	if _, err := p.db.Exec(p.ctx, query, p.seq+1, p.seq+int64(n)); err != nil {
		p.t.Fatal(err)
	}
	p.seq += int64(n)
	if _, err := p.db.Exec(p.ctx, `SELECT pg_notify($1, 'main')`, notifyChannel); err != nil {
		p.t.Fatal(err)
	}
}

// reader collects what is delivered to it, and moves its checkpoint.
type reader struct {
	mu    sync.Mutex
	seqs  []int64
	fails int // how many deliveries to refuse first
}

func (r *reader) handle(msg *message.Message) error {
	batch := worker.BatchOf[Batch](msg)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.fails--
		return fmt.Errorf("refused on purpose")
	}
	ctx := msg.Context()
	return pgx.BeginFunc(ctx, batch.Lease.Conn, func(tx pgx.Tx) error {
		for _, e := range batch.Events {
			r.seqs = append(r.seqs, e.Seq)
		}
		last := batch.Events[len(batch.Events)-1].Seq
		return worker.MoveCheckpoint(ctx, tx, "reader", batch.Pool, batch.Events[0].Seq-1, last)
	})
}

func (r *reader) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seqs)
}

func (p *plant) read(r *reader, pages *PageCache, name string) (stop func()) {
	return testenv.RunRouter(p.t, func(router *message.Router) {
		s := NewSubscriber(SubscriberConfig{Postgres: p.config, Pool: events.MainPool, Pages: pages, Reader: name, BatchMax: 700, Log: slog.New(slog.DiscardHandler)})
		router.AddConsumerHandler(name, Topic(events.MainPool), s, r.handle).AddMiddleware(worker.ReportFault)
	})
}

// TestJournalReader holds that a reader is given every event once and in order, through pages and beyond them, and
// goes on at its checkpoint after a stop and after a failure.
func TestJournalReader(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.fill(4500)
	r := &reader{fails: 2}
	await := func(n int) {
		t.Helper()
		testenv.Eventually(t, 20*time.Second, func() (bool, string) { return r.count() == n, fmt.Sprintf("read %d of %d", r.count(), n) })
	}
	pages := NewPageCache(events.MainPool)
	stop := p.read(r, pages, "reader")
	await(4500)
	p.fill(3)
	await(4503)
	stop()
	p.fill(1700)
	p.read(r, pages, "reader")
	await(6203)
	for i, seq := range r.seqs {
		if seq != int64(i+1) {
			t.Fatalf("delivery %d is seq %d", i+1, seq)
		}
	}
}

// TestCheckpointPutBack holds that a reader at the journal's end notices that its checkpoint was put back, although nothing is
// written that it would be given, and reads from there.
func TestCheckpointPutBack(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.fill(5)
	r := &reader{}
	p.read(r, NewPageCache(events.MainPool), "reader")
	checkpoint := func() int64 {
		seq, _ := worker.ReadCheckpoint(p.ctx, p.db, "reader", "main")
		return seq
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) { return checkpoint() == 5, "the reader has not read" })
	p.exec(`UPDATE checkpoints SET seq = 2 WHERE projection = 'reader'`)
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		return r.count() == 8 && checkpoint() == 5, fmt.Sprintf("read %d, want 5 and 3 again", r.count())
	})
}

// TestSharedPages holds that readers of one process get the same events from a page, read once.
func TestSharedPages(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.fill(2*pageEvents + 5)
	pages := NewPageCache(events.MainPool)
	var readers sync.WaitGroup
	var firsts [4]*events.Envelope
	for i := range firsts {
		conn := p.connect()
		readers.Go(func() {
			after := int64(0)
			for {
				found, err := pages.Read(p.ctx, conn, after, 300)
				if err != nil {
					t.Error(err)
					return
				}
				if len(found) == 0 {
					break
				}
				if after == 0 {
					firsts[i] = &found[0]
				}
				for j, e := range found {
					if e.Seq != after+int64(j)+1 {
						t.Errorf("reader %d: got seq %d after %d", i, e.Seq, after)
						return
					}
				}
				after = found[len(found)-1].Seq
			}
			if after != p.seq {
				t.Errorf("reader %d came to %d of %d", i, after, p.seq)
			}
		})
	}
	readers.Wait()
	if firsts[0] == nil || firsts[0] != firsts[1] || firsts[1] != firsts[2] || firsts[2] != firsts[3] {
		t.Error("the readers have copies of their own")
	}
	pages.Forget()
	found, err := pages.Read(p.ctx, p.db, 0, 1)
	if err != nil || len(found) != 1 || &found[0] == firsts[0] {
		t.Errorf("after Forget: got %d events (%v), want one that was read anew", len(found), err)
	}
}
