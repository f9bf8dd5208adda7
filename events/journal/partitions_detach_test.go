package journal

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// newArchive is a journal of 350 events in parts of 100, which everybody has read.
func newArchive(t *testing.T) *plant {
	t.Helper()
	p := newPlant(t)
	p.smallParts()
	p.append(350)
	p.journal(60)
	p.awaitJournal(350)
	p.awaitAcknowledged()
	return p
}

func (p *plant) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.db.Exec(p.ctx, sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// reads moves a reader to a seq.
func (p *plant) reads(name string, seq int64) {
	p.t.Helper()
	p.exec(`INSERT INTO checkpoints VALUES ($1, 'main', $2) ON CONFLICT (projection, pool) DO UPDATE SET seq = $2`, name, seq)
}

// detach tries to take a part out.
func (p *plant) detach(part Partition, names ...string) error {
	p.t.Helper()
	stream, err := GroupPosition(p.ctx, p.redis, events.MainPool)
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = DetachPartition(p.ctx, p.db, part, stream, names...)
	return err
}

// everything is the journal's rows as text.
func (p *plant) everything() string {
	p.t.Helper()
	var text string
	if err := p.db.QueryRow(p.ctx, `SELECT string_agg(e::text, E'\n' ORDER BY pool, seq) FROM events e`).Scan(&text); err != nil {
		p.t.Fatal(err)
	}
	return text
}

// TestDetachRefused holds that no part goes which somebody has yet to read: a projection that is behind, one that has
// not begun, the journal's own group. Nor does any but the oldest, or the newest.
func TestDetachRefused(t *testing.T) {
	t.Parallel()
	p := newArchive(t)
	p.reads("orders", 99)
	parts := p.parts()
	refused := func(part Partition, says string, names ...string) {
		t.Helper()
		if err := p.detach(part, names...); !errors.Is(err, ErrPartitionNeeded) || !strings.Contains(err.Error(), says) {
			t.Errorf("detach %s: got %v, want it refused because of %q", part.Name, err, says)
		}
	}
	refused(parts[0], "needed by orders, which is at main:99")
	p.reads("orders", 100)
	refused(parts[0], "needed by hourly, which is at main:0", "hourly")
	refused(parts[1], "only the oldest")
	refused(Partition{Name: "events_1", First: 1, Last: 50}, "only the oldest")

	// An event that was journaled, and never acknowledged, is compared with the journal when it comes again.
	if _, err := DetachPartition(p.ctx, p.db, parts[0], ReaderPosition{Name: "group", Pool: "main", Seq: 99}); !errors.Is(err, ErrPartitionNeeded) {
		t.Errorf("detach what the stream's group needs: got %v", err)
	}
	if parts := p.parts(); len(parts) != 4 || len(p.everything()) == 0 {
		t.Errorf("the refusals left %d parts", len(parts))
	}

	// The newest part stays, even where all is read.
	p.reads("orders", 1000)
	p.reads(CheckpointName, 1000)
	for _, part := range parts[:3] {
		if err := p.detach(part); err != nil {
			t.Errorf("detach %s: %v", part.Name, err)
		}
	}
	refused(parts[3], "never the newest")
}

// TestDetachWaitsForNobody holds that a detach gives up on a long read instead of holding everybody else up, and can be
// tried again.
func TestDetachWaitsForNobody(t *testing.T) {
	t.Parallel()
	p := newArchive(t)
	long, err := p.connect().Begin(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEvents(p.ctx, long, "main", 0, 10); err != nil {
		t.Fatal(err)
	}
	part := p.parts()[0]
	if err := p.detach(part); err == nil || !strings.Contains(err.Error(), "try again later") {
		t.Errorf("got %v, want it to give up", err)
	}
	if err := CheckComplete(p.ctx, p.db, "main", 0); err != nil {
		t.Errorf("afterwards: got %v, want the journal as it was", err)
	}
	if err := long.Rollback(p.ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.detach(part); err != nil {
		t.Errorf("again: %v", err)
	}
}

// TestStreamReader tells the first event that the journal's group needs from what is acknowledged, and from what is no
// event.
func TestStreamReader(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	at := func(want int64) {
		t.Helper()
		if stream, err := GroupPosition(p.ctx, p.redis, events.MainPool); err != nil || stream.Seq != want {
			t.Errorf("got %d (%v), want %d", stream.Seq, err, want)
		}
	}
	at(math.MaxInt64) // no stream
	for range 150 {
		p.raw(map[string]any{"hello": "world"})
	}
	at(math.MaxInt64) // no event
	p.append(20)
	at(0) // no group
	if err := p.redis.XGroupCreate(p.ctx, events.MainPool.StreamKey(), events.ConsumerGroup, "0").Err(); err != nil {
		t.Fatal(err)
	}
	at(0)
	entries, err := p.redis.XRange(p.ctx, events.MainPool.StreamKey(), "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []int{4, 10} {
		if err := p.redis.XGroupSetID(p.ctx, events.MainPool.StreamKey(), events.ConsumerGroup, entries[150+seq-1].ID).Err(); err != nil {
			t.Fatal(err)
		}
		at(int64(seq))
	}
}

// TestDetachAndAttach takes parts out while the journal goes on, has what would need them refused by name, and brings
// them back exactly as they were.
func TestDetachAndAttach(t *testing.T) {
	t.Parallel()
	p := newArchive(t)
	whole := func(after int64, want error, says string) {
		t.Helper()
		err := CheckComplete(p.ctx, p.db, "main", after)
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("after %d: got %v, want %v that says %q", after, err, want, says)
		}
	}
	before := p.everything()
	whole(0, nil, "")
	for _, part := range p.parts()[:2] {
		if err := p.detach(part); err != nil {
			t.Fatal(err)
		}
	}
	whole(0, ErrDetached, "events_1 (events 1 to 100), events_101 (events 101 to 200); bring it back with `stockstream journal attach events_1`")
	whole(100, ErrDetached, "attach events_101")
	whole(200, nil, "")
	whole(350, nil, "")
	if found, err := ReadEvents(p.ctx, p.db, "main", 0, 50); err != nil || len(found) == 0 || found[0].Seq != 201 {
		t.Errorf("a reader from the beginning is shown %d events (%v), want those from 201 on: it has to see the hole", len(found), err)
	}
	if readers, err := ReaderPositions(p.ctx, p.db); err != nil || len(readers) != 1 {
		t.Errorf("readers: got %+v (%v)", readers, err)
	}
	reports, err := DescribePartitions(p.ctx, p.db, []ReaderPosition{{Name: "x", Pool: "main", Seq: 340}})
	if err != nil || len(reports) != 4 {
		t.Fatalf("parts: got %+v (%v)", reports, err)
	}
	if r := reports[0]; r.State != PartitionDetached || r.Events != 100 || r.Bytes == 0 || r.Name != "events_1" || len(r.NeededBy) != 0 {
		t.Errorf("the first part: got %+v", r)
	}
	if r := reports[3]; r.State != PartitionAttached || r.Events != 50 || len(r.NeededBy) != 1 || r.FirstAt.UnixMilli() != 1764000000301 || r.LastAt.UnixMilli() != 1764000000350 {
		t.Errorf("the fourth part: got %+v", r)
	}
	for _, name := range []string{"events_101", "events_1"} {
		if part, err := AttachPartition(p.ctx, p.db, name); err != nil || part.Events != 100 {
			t.Errorf("attach %s: got %+v (%v)", name, part, err)
		}
	}
	whole(0, nil, "")
	if p.everything() != before {
		t.Error("what came back is not what was detached")
	}
	assertContiguous(t, p.parts())
	p.append(100)
	p.awaitJournal(450)
}

// TestAttachRefused holds that a part which is not exactly what was detached does not come back.
func TestAttachRefused(t *testing.T) {
	t.Parallel()
	p := newArchive(t)
	if err := p.detach(p.parts()[0]); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, want error) {
		t.Helper()
		if _, err := AttachPartition(p.ctx, p.db, name); !errors.Is(err, want) {
			t.Errorf("attach %s: got %v, want %v", name, err, want)
		}
	}
	refused("events_101", ErrUnknownPartition)
	p.exec(`CREATE TABLE backup AS SELECT * FROM events_1`)
	for _, change := range []string{
		`DELETE FROM events_1 WHERE seq = 100`,
		`UPDATE events_1 SET payload = payload || '{"qty":2}' WHERE seq = 7`,
		`UPDATE events_1 SET at = at + interval '1 microsecond' WHERE seq = 7`,
		`UPDATE events_1 SET hold_id = 'h8' WHERE seq = 7`,
	} {
		p.exec(change)
		refused("events_1", ErrPartitionChanged)
		p.exec(`TRUNCATE events_1; INSERT INTO events_1 SELECT * FROM backup`)
	}
	p.exec(`ALTER TABLE events_1 RENAME TO elsewhere`)
	refused("events_1", ErrPartitionGone)
	if reports, err := DescribePartitions(p.ctx, p.db, nil); err != nil || reports[0].State != PartitionGone || reports[0].Events != 100 {
		t.Errorf("parts: got %+v (%v), want the first gone", reports, err)
	}
	p.exec(`ALTER TABLE elsewhere RENAME TO events_1`)
	if _, err := AttachPartition(p.ctx, p.db, "events_1"); err != nil {
		t.Errorf("attach what was detached: %v", err)
	}
}

// TestJournalNotWhole holds that what is missing without having been detached is called a hole.
func TestJournalNotWhole(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]string{
		"first event":            `DELETE FROM events WHERE seq = 1`,
		"last event":             `DELETE FROM events WHERE seq = 350`,
		"end of a part":          `DELETE FROM events WHERE seq = 200`,
		"part taken out by hand": `ALTER TABLE events DETACH PARTITION events_101`,
		"last parts":             `DROP TABLE events_301, events_401`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.smallParts()
			p.extend(450)
			p.fill(350)
			if err := CheckComplete(p.ctx, p.db, "main", 0); err != nil {
				t.Errorf("nothing journaled: got %v", err)
			}
			p.reads(CheckpointName, 350)
			if err := CheckComplete(p.ctx, p.db, "main", 0); err != nil {
				t.Errorf("before: got %v", err)
			}
			p.exec(harm)
			if err := CheckComplete(p.ctx, p.db, "main", 0); !errors.Is(err, ErrHole) {
				t.Errorf("got %v, want ErrHole", err)
			}
		})
	}
}
