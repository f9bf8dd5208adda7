package journal

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
)

// smallParts makes the first part as small as the tests' others.
func (p *plant) smallParts() {
	p.t.Helper()
	err := pgx.BeginFunc(p.ctx, p.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(p.ctx, `DROP TABLE events_1`); err != nil {
			return err
		}
		return addPartition(p.ctx, tx, 1, 1+partitionEvents)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) parts() []Partition {
	p.t.Helper()
	parts, err := Partitions(p.ctx, p.db)
	if err != nil {
		p.t.Fatal(err)
	}
	return parts
}

// extend makes parts until they reach beyond a seq.
func (p *plant) extend(beyond int64) {
	p.t.Helper()
	err := pgx.BeginFunc(p.ctx, p.db, func(tx pgx.Tx) error {
		_, err := addPartitions(p.ctx, tx, beyond, slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

func assertContiguous(t *testing.T, parts []Partition) {
	t.Helper()
	next := int64(1)
	for _, part := range parts {
		if part.First != next || part.Name != partitionName(part.First) {
			t.Errorf("part %+v begins elsewhere than at %d, or has another name", part, next)
		}
		next = part.Last + 1
	}
}

// TestFirstPart holds that the migration and the journal mean the same by a part.
func TestFirstPart(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	if got := p.parts(); len(got) != 1 || got[0] != (Partition{Name: "events_1", First: 1, Last: 2_000_000}) {
		t.Errorf("got %+v", got)
	}
}

// TestBatchesOverParts holds that a journal makes its parts in time, however its batches lie across them, and that
// the events are in the parts they belong into.
func TestBatchesOverParts(t *testing.T) {
	t.Parallel()
	for _, batchMax := range []int{1, 70, 2000} {
		t.Run(fmt.Sprint(batchMax), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.smallParts()
			p.append(420)
			p.journal(batchMax)
			p.awaitJournal(420)
			p.append(260)
			p.awaitJournal(680)
			parts := p.parts()
			assertContiguous(t, parts)
			if last := parts[len(parts)-1].Last; last <= 680+partitionEvents/2 {
				t.Errorf("the parts end at %d; there is none ahead", last)
			}
			for _, part := range parts[:6] {
				var count, lowest, highest int64
				if err := p.db.QueryRow(p.ctx, `SELECT count(*), min(seq), max(seq) FROM `+postgres.QuoteIdentifier(part.Name)).Scan(&count, &lowest, &highest); err != nil || count != 100 || lowest != part.First || highest != part.Last {
					t.Errorf("part %+v has %d events from %d to %d (%v)", part, count, lowest, highest, err)
				}
			}
			found, err := ReadEvents(p.ctx, p.db, "main", 95, 300)
			if err != nil || len(found) != 300 || found[0].Seq != 96 || found[299].Seq != 395 {
				t.Errorf("read over parts: got %d events (%v)", len(found), err)
			}
		})
	}
}

// TestPartsMadeAtOnce holds that processes which need the same parts at once all get them.
func TestPartsMadeAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallParts()
	var makers sync.WaitGroup
	for range 4 {
		conn := p.connect()
		makers.Go(func() {
			err := pgx.BeginFunc(p.ctx, conn, func(tx pgx.Tx) error {
				end, err := addPartitions(p.ctx, tx, 1000, slog.New(slog.DiscardHandler))
				if err == nil && end != 1001 {
					err = fmt.Errorf("the parts end before %d", end)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	makers.Wait()
	if parts := p.parts(); len(parts) != 10 {
		t.Errorf("there are %d parts, want 10", len(parts))
	}
	assertContiguous(t, p.parts())
}

// TestNoPartToBeHad holds that a journal which cannot make its next part uses the room it has, waits then, and goes on
// when it can: nothing is skipped.
func TestNoPartToBeHad(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallParts()
	blocker, err := p.connect().Begin(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := lockPartitions(p.ctx, blocker); err != nil {
		t.Fatal(err)
	}
	var log lines
	p.append(80)
	line, _ := p.journalWith(StreamSubscriberConfig{BatchMax: 20, Keep: time.Hour}, slog.New(slog.NewTextHandler(&log, nil)))
	p.awaitJournal(80)
	if log.count("could not be made ahead of need") == 0 {
		t.Error("the log does not say that a part is missing")
	}
	p.append(80)
	p.awaitFault(line, "lock the partitions")
	if seq, err := worker.ReadCheckpoint(p.ctx, p.db, CheckpointName, "main"); err != nil || seq < 80 || seq > 100 {
		t.Errorf("the journal is at %d (%v), want it to wait at the end of its part", seq, err)
	}
	if err := blocker.Rollback(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.awaitJournal(160)
}

// TestPartIsForgotten holds that a journal whose newest part has vanished, as with a Postgres that was restored from a
// backup, finds out and makes it again.
func TestPartIsForgotten(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallParts()
	p.append(90)
	p.journal(0)
	p.awaitJournal(90)
	if _, err := p.db.Exec(p.ctx, `DROP TABLE events_101`); err != nil {
		t.Fatal(err)
	}
	p.append(30)
	p.awaitJournal(120)
}

var partNames = regexp.MustCompile(`events_\d+ `)

// plan returns the parts that a query touches, each once.
func (p *plant) plan(sql string, args ...any) map[string]bool {
	p.t.Helper()
	rows, err := p.db.Query(p.ctx, "EXPLAIN "+sql, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		p.t.Fatal(err)
	}
	parts := map[string]bool{}
	for _, line := range lines {
		for _, name := range partNames.FindAllString(line, -1) {
			parts[strings.TrimSpace(name)] = true
		}
	}
	return parts
}

// TestReadsTouchTheirPart holds that a page of the journal is read from the part it lies in, whatever their number, and
// that Postgres does not come to prefer a plan that opens them all.
func TestReadsTouchTheirPart(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallParts()
	p.extend(5000)
	p.fill(5000)
	const page = `SELECT seq FROM events WHERE pool = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`
	if got := p.plan(page, "main", 2310, 2360, 50); len(got) != 1 || !got["events_2301"] {
		t.Errorf("a page touches %v, want events_2301 alone", got)
	}
	for after := int64(0); after < 5000; after += 50 {
		if found, err := ReadEvents(p.ctx, p.db, "main", after, 50); err != nil || len(found) != 50 {
			t.Fatalf("read after %d: got %d events (%v)", after, len(found), err)
		}
	}
	var custom, generic int
	const plans = `SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements WHERE statement LIKE 'SELECT pool%seq <= $3%'`
	if err := p.db.QueryRow(p.ctx, plans).Scan(&custom, &generic); err != nil || custom < 100 || generic != 0 {
		t.Errorf("%d plans for a page and %d for all parts (%v), want none of the latter", custom, generic, err)
	}
}

// TestHoleIsSeen holds that a reader is shown what comes after a hole, however wide, rather than an end.
func TestHoleIsSeen(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallParts()
	p.extend(1000)
	p.fill(900)
	if _, err := p.db.Exec(p.ctx, `DELETE FROM events WHERE seq BETWEEN 11 AND 700`); err != nil {
		t.Fatal(err)
	}
	found, err := ReadEvents(context.WithoutCancel(p.ctx), p.db, "main", 10, 50)
	if err != nil || len(found) != 50 || found[0].Seq != 701 {
		t.Errorf("got %d events (%v), want those from 701 on", len(found), err)
	}
}
