package audit

import (
	"context"
	"fmt"
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

// entry is one event of the stream, or of the journal.
type entry struct {
	streamID string
	seq      int64
	id       uuid.UUID
	kind     events.Type
	atMs     int64
	payload  []byte
}

// compareStream compares what the stream still holds with the journal, entry by entry, from an entry on and up to the
// audit's end. Entries at the front may have been trimmed; within what is there, none may be missing. It returns the id
// of the last entry.
func (a *auditor) compareStream(ctx context.Context, conn *pgx.Conn, from string) (last string, err error) {
	last = from
	var previous int64
	start := "-"
	if from != "" {
		start = from // once more: if it is still there, nothing behind it may be missing
	}
	for {
		messages, err := a.config.Redis.XRangeN(ctx, a.config.Pool.StreamKey(), start, "+", entriesPage).Result()
		if err != nil {
			return last, fmt.Errorf("read the stream: %w", err)
		}
		known, err := a.withoutStrangers(ctx, conn, messages, previous)
		if err != nil {
			return last, err
		}
		page, done := a.entries(known)
		if err := a.compareEntries(ctx, conn, page, &previous); err != nil {
			return last, err
		}
		if len(page) > 0 {
			last = page[len(page)-1].streamID
		}
		a.found.compared(func(c *Compared) { c.Entries += int64(len(page)) })
		if done || len(messages) < entriesPage {
			return last, nil
		}
		start = "(" + messages[len(messages)-1].ID
	}
}

// withoutStrangers leaves out what no command wrote and the journal has set aside, whatever seq it carries. Where every seq
// follows upon the one before, there is none.
func (a *auditor) withoutStrangers(ctx context.Context, conn *pgx.Conn, messages []redis.XMessage, previous int64) ([]redis.XMessage, error) {
	ids, dense := make([]string, len(messages)), previous > 0
	for i, m := range messages {
		previous++
		ids[i], dense = m.ID, dense && events.EntrySeq(m.Values) == previous
	}
	if dense {
		return messages, nil
	}
	strangers, err := deadletters.ForeignEntries(ctx, conn, a.config.Pool.Name(), ids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(messages), func(m redis.XMessage) bool { return strangers[m.ID] }), nil
}

// entries returns the events among entries of the stream, and whether the audit's end is among them.
func (a *auditor) entries(messages []redis.XMessage) (page []entry, done bool) {
	for _, m := range messages {
		text := func(field string) string { s, _ := m.Values[field].(string); return s }
		seq := events.EntrySeq(m.Values)
		if seq == 0 {
			continue
		}
		if seq > a.end {
			return page, true
		}
		e := entry{streamID: m.ID, seq: seq, kind: events.Type(text("type")), payload: []byte(text("payload"))}
		e.id, _ = uuid.Parse(text("event_id")) // the zero id equals none of the journal's
		e.atMs, _ = strconv.ParseInt(text("at"), 10, 64)
		page = append(page, e)
	}
	return page, false
}

// compareEntries compares a page with the rows of the same seqs, and makes sure that no seq is left out.
func (a *auditor) compareEntries(ctx context.Context, conn *pgx.Conn, page []entry, previous *int64) error {
	if len(page) == 0 {
		return nil
	}
	seqs := make([]int64, len(page))
	for i := range page {
		seqs[i] = page[i].seq
		if *previous > 0 && page[i].seq != *previous+1 {
			a.streamDiffers(KindHole, page[i].seq, fmt.Sprintf("an entry for seq %d after seq %d", *previous+1, *previous), describe(&page[i]))
		}
		*previous = page[i].seq
	}
	const query = `SELECT seq, event_id, type, at, payload FROM events WHERE pool = $1 AND seq = ANY ($2)`
	rows, err := conn.Query(ctx, query, a.config.Pool.Name(), seqs)
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	journaled := make(map[int64]entry, len(page))
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var e entry
		var id [16]byte
		var at time.Time
		err := row.Scan(&e.seq, &id, (*string)(&e.kind), &at, &e.payload)
		e.id, e.atMs = id, at.UnixMilli()
		journaled[e.seq] = e
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	for i := range page {
		a.compareEntry(&page[i], journaled)
	}
	return nil
}

func (a *auditor) compareEntry(e *entry, journaled map[int64]entry) {
	row, there := journaled[e.seq]
	switch {
	case !there:
		a.found.differs(Difference{Store: StoreJournal, Kind: KindMissing, Key: "seq " + strconv.FormatInt(e.seq, 10), Expected: describe(e), Seq: e.seq})
	case row.id != e.id:
		a.streamDiffers(KindForked, e.seq, describe(&row), describe(e))
	case row.kind != e.kind || row.atMs != e.atMs || !samePayload(&row, e):
		a.streamDiffers(KindChanged, e.seq, describe(&row), describe(e))
	}
}

func (a *auditor) streamDiffers(kind Kind, seq int64, expected, found string) {
	a.found.differs(Difference{Store: StoreStream, Kind: kind, Key: "seq " + strconv.FormatInt(seq, 10), Expected: expected, Found: found, Seq: seq})
}

func describe(e *entry) string {
	const payloadMax = 300 // bytes; enough to see what differs
	payload := e.payload[:min(len(e.payload), payloadMax)]
	return fmt.Sprintf("%s %s at %s: %s", e.kind, e.id, clock(e.atMs), payload)
}
