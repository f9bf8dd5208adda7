package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
)

// entriesPage is how many entries of the stream are compared at once.
const entriesPage = 1000

// entry is one event, as the stream or the journal has it.
type entry struct {
	streamID  string // "" for an event of the journal
	seq       int64
	id        uuid.UUID
	eventType events.Type
	atMs      int64
	payload   []byte
}

// compareStream compares the entries of the stream with the journal, up to the audit's
// end, and returns the stream id of the last entry compared. It starts at the entry with
// the stream id from, or at the stream's first entry if from is "".
//
// The stream may be trimmed at its front at any time, but no entry after its first one
// may be missing. compareStream therefore reads the last entry of the previous audit
// again: if it still exists, the entry after it must have the next seq.
func (a *auditor) compareStream(ctx context.Context, from string) (last string, err error) {
	last = from
	var previous int64 // the seq of the entry before
	start := "-"
	if from != "" {
		start = from
	}
	key := a.config.Pool.StreamKey()
	for {
		messages, err := a.config.Redis.XRangeN(ctx, key, start, "+", entriesPage).Result()
		if err != nil {
			return last, fmt.Errorf("read the stream: %w", err)
		}
		ours, err := a.withoutForeignEntries(ctx, messages, previous)
		if err != nil {
			return last, err
		}
		page, done := a.parseEntries(ours)
		if err := a.compareEntries(ctx, page, previous); err != nil {
			return last, err
		}
		if len(page) > 0 {
			last = page[len(page)-1].streamID
			previous = page[len(page)-1].seq
		}
		a.found.count(func(c *Compared) { c.Entries += int64(len(page)) })
		if done || len(messages) < entriesPage {
			return last, nil
		}
		start = "(" + messages[len(messages)-1].ID
	}
}

// withoutForeignEntries leaves out the foreign entries: entries that no command wrote,
// which the journal has parked. They may have any seq. If every seq is one above the seq
// before, there are no foreign entries, and no query of Postgres is needed.
func (a *auditor) withoutForeignEntries(
	ctx context.Context, messages []redis.XMessage, previous int64,
) ([]redis.XMessage, error) {
	ids := make([]string, len(messages))
	dense := previous > 0
	for i, m := range messages {
		previous++
		ids[i] = m.ID
		dense = dense && events.EntrySeq(m.Values) == previous
	}
	if dense {
		return messages, nil
	}
	foreign, err := deadletters.ForeignEntries(ctx, a.conns.stream, a.pool, ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(messages), func(m redis.XMessage) bool {
		return foreign[m.ID]
	}), nil
}

// parseEntries returns the events among the messages up to the audit's end, and whether a
// message is past that end.
func (a *auditor) parseEntries(messages []redis.XMessage) (page []entry, done bool) {
	for _, m := range messages {
		text := func(field string) string {
			s, _ := m.Values[field].(string)
			return s
		}
		seq := events.EntrySeq(m.Values)
		if seq == 0 {
			continue
		}
		if seq > a.end {
			return page, true
		}
		e := entry{
			streamID:  m.ID,
			seq:       seq,
			eventType: events.Type(text("type")),
			payload:   []byte(text("payload")),
		}
		e.id, _ = uuid.Parse(text("event_id")) // the zero id differs from every id in the journal
		e.atMs, _ = strconv.ParseInt(text("at"), 10, 64)
		page = append(page, e)
	}
	return page, false
}

// compareEntries compares a page with the journal's events of the same seqs, and checks
// that no seq is missing since previous.
func (a *auditor) compareEntries(ctx context.Context, page []entry, previous int64) error {
	if len(page) == 0 {
		return nil
	}
	seqs := make([]int64, len(page))
	for i := range page {
		seqs[i] = page[i].seq
		if previous > 0 && page[i].seq != previous+1 {
			want := fmt.Sprintf("an entry for seq %d after seq %d", previous+1, previous)
			a.addStreamDifference(KindHole, page[i].seq, want, page[i].describe())
		}
		previous = page[i].seq
	}
	journaled, err := a.readJournaled(ctx, seqs)
	if err != nil {
		return err
	}
	for i := range page {
		a.compareEntry(&page[i], journaled)
	}
	return nil
}

// readJournaled returns the journal's events by seq.
func (a *auditor) readJournaled(ctx context.Context, seqs []int64) (map[int64]entry, error) {
	const query = `SELECT seq, event_id, type, at, payload FROM events WHERE pool = $1 AND seq = ANY ($2)`
	rows, err := a.conns.stream.Query(ctx, query, a.pool, seqs)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entry, err error) {
		var id [16]byte
		var at time.Time
		err = row.Scan(&e.seq, &id, (*string)(&e.eventType), &at, &e.payload)
		e.id = id
		e.atMs = at.UnixMilli()
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	journaled := make(map[int64]entry, len(list))
	for _, e := range list {
		journaled[e.seq] = e
	}
	return journaled, nil
}

func (a *auditor) compareEntry(e *entry, journaled map[int64]entry) {
	row, exists := journaled[e.seq]
	switch {
	case !exists:
		a.found.addDifference(Difference{
			Store:    StoreJournal,
			Kind:     KindMissing,
			Key:      seqKey(e.seq),
			Expected: e.describe(),
			Seq:      e.seq,
		})
	case row.id != e.id:
		a.addStreamDifference(KindForked, e.seq, row.describe(), e.describe())
	case row.eventType != e.eventType || row.atMs != e.atMs || !samePayload(&row, e):
		a.addStreamDifference(KindChanged, e.seq, row.describe(), e.describe())
	}
}

// samePayload compares the decoded payloads: the journal's jsonb does not keep the order
// of fields.
func samePayload(a, b *entry) bool {
	eventA, errA := events.Decode(a.eventType, a.payload)
	eventB, errB := events.Decode(b.eventType, b.payload)
	if errA == nil && errB == nil {
		return reflect.DeepEqual(eventA, eventB)
	}
	var rawA, rawB any
	if json.Unmarshal(a.payload, &rawA) != nil || json.Unmarshal(b.payload, &rawB) != nil {
		return true // not JSON: the journal parked the entry, and has another payload in its place
	}
	return reflect.DeepEqual(rawA, rawB)
}

func (a *auditor) addStreamDifference(kind Kind, seq int64, want, found string) {
	a.found.addDifference(Difference{
		Store:    StoreStream,
		Kind:     kind,
		Key:      seqKey(seq),
		Expected: want,
		Found:    found,
		Seq:      seq,
	})
}

func (e *entry) describe() string {
	const payloadMax = 300 // bytes; enough to see the difference
	payload := e.payload[:min(len(e.payload), payloadMax)]
	return fmt.Sprintf("%s %s at %s: %s", e.eventType, e.id, clock(e.atMs), payload)
}
