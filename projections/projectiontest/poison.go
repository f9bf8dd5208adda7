package projectiontest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/projections"
)

// poison checks two events: any event, and one that a later event of the same hold
// follows.
func (c *historyCheck) poison() string {
	wanted := c.wantedEvents()
	for _, candidates := range [][]events.Envelope{wanted, withSuccessor(wanted)} {
		if len(candidates) == 0 {
			continue
		}
		bad := candidates[c.rng.IntN(len(candidates))]
		key := c.projection.Key(&bad)
		// The payload cannot be read; SKU and HoldID are columns of the journal and can.
		unreadable := events.Envelope{
			Pool:     bad.Pool,
			Seq:      bad.Seq,
			EventID:  bad.EventID,
			Type:     unknownType,
			SKU:      bad.SKU,
			HoldID:   bad.HoldID,
			Payload:  json.RawMessage(`{}`),
			Metadata: bad.Metadata,
			At:       bad.At,
		}
		if unreadableKey := c.projection.Key(&unreadable); unreadableKey != key {
			return fmt.Sprintf("the key of event %d is %q, but %q if its payload cannot be read",
				bad.Seq, key, unreadableKey)
		}
		parked := map[int64]bool{}
		var letters []string
		for _, e := range wanted {
			follows := e.Seq > bad.Seq && key != "" && c.projection.Key(&e) == key
			if e.Seq == bad.Seq || follows {
				parked[e.Seq] = true
				letters = append(letters,
					c.texts(`SELECT ($1::bigint, $2::text)::text`, e.Seq, c.projection.Key(&e))...)
			}
		}
		if finding := c.poisonAt(bad.Seq, parked, letters); finding != "" {
			return finding
		}
	}
	return ""
}

// withSuccessor returns the events that a later event of the same hold follows.
func withSuccessor(list []events.Envelope) (found []events.Envelope) {
	for i, e := range list {
		sameHold := func(later events.Envelope) bool { return e.HoldID != "" && later.HoldID == e.HoldID }
		if slices.ContainsFunc(list[i+1:], sameHold) {
			found = append(found, e)
		}
	}
	return found
}

// unknownType is an event type that no build knows.
const unknownType events.Type = "HOLD_TRANSFERRED"

// poisonAt makes the event at seq fail, and then gives it an unknown type. Each time it
// compares the rows with those of a history without the parked events, and the dead
// letters with the given ones.
func (c *historyCheck) poisonAt(seq int64, parked map[int64]bool, letters []string) string {
	size := 1 + c.rng.IntN(len(c.history))
	parkedSeqs := slices.Sorted(maps.Keys(parked))

	c.reset()
	if err := c.run(process{projection: withoutEvents(c.build(), parked)}); err != nil {
		return fmt.Sprintf("without the events %v: %v", parkedSeqs, err)
	}
	if letter := c.firstLetter(); letter != "" {
		return fmt.Sprintf("without the events %v, which have one key, another event is parked (%s); "+
			"the key must be the same for all events that depend on each other", parkedSeqs, letter)
	}
	want := c.read(0)
	want[deadLetters] = letters

	c.reset()
	how := fmt.Sprintf("with event %d failing, in batches of %d", seq, size)
	failing := process{projection: failingAt(c.build(), seq), batchMax: size}
	if finding := c.runAndCompareWith(want, failing, how); finding != "" {
		return finding
	}

	c.reset()
	knownType := c.texts(`SELECT type FROM events WHERE seq = $1`, seq)[0]
	c.exec(`UPDATE events SET type = $2 WHERE seq = $1`, seq, string(unknownType))
	defer c.exec(`UPDATE events SET type = $2 WHERE seq = $1`, seq, knownType)
	how = fmt.Sprintf("with event %d of an unknown type, in batches of %d", seq, size)
	return c.runAndCompareWith(want, process{projection: c.build(), batchMax: size}, how)
}

func (c *historyCheck) runAndCompareWith(want rows, p process, how string) string {
	if err := c.run(p); err != nil {
		return how + ": " + err.Error()
	}
	differs := difference(want, c.read(0))
	if differs == "" {
		return ""
	}
	return how + ", compared with a history without the parked events:\n" + differs +
		"\nthe first dead letter is " + c.firstLetter()
}

// wantedEvents returns the events of the journal that the projection wants.
func (c *historyCheck) wantedEvents() []events.Envelope {
	all, err := journal.ReadEvents(c.t.Context(), c.db, events.MainPool.Name(), 0, len(c.history))
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e events.Envelope) bool {
		return !slices.Contains(c.projection.Wants, e.Type)
	})
}

// withoutEvents returns a copy of the projection whose Apply ignores some events.
func withoutEvents(p projections.Projection, seqs map[int64]bool) projections.Projection {
	apply := p.Apply
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		rest := slices.DeleteFunc(slices.Clone(batch), func(e projections.Event) bool { return seqs[e.Seq] })
		if len(rest) == 0 {
			return nil
		}
		return apply(ctx, tx, rest)
	}
	return p
}

// failingAt returns a copy of the projection whose Apply fails, after writing, for a
// batch with the event at seq.
func failingAt(p projections.Projection, seq int64) projections.Projection {
	apply := p.Apply
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		if err := apply(ctx, tx, batch); err != nil {
			return err
		}
		if slices.ContainsFunc(batch, func(e projections.Event) bool { return e.Seq == seq }) {
			return errors.New("projectiontest: this event cannot be applied")
		}
		return nil
	}
	return p
}
