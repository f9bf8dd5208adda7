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

func (t *trial) poison() string {
	wanted := t.wanted()
	for _, choice := range [][]events.Envelope{wanted, followed(wanted)} {
		if len(choice) == 0 {
			continue
		}
		bad := choice[t.rng.IntN(len(choice))]
		key := t.projection.Key(&bad)
		unreadable := events.Envelope{ // but for what the journal lifted from it when it was written
			Pool: bad.Pool, Seq: bad.Seq, EventID: bad.EventID, Type: unknownType, SKU: bad.SKU, HoldID: bad.HoldID,
			Payload: json.RawMessage(`{}`), Metadata: bad.Metadata, At: bad.At,
		}
		if again := t.projection.Key(&unreadable); again != key {
			return fmt.Sprintf("the key of event %d is %q, and %q when its payload cannot be read", bad.Seq, key, again)
		}
		var expected []string
		behind := map[int64]bool{}
		for _, e := range wanted {
			if e.Seq == bad.Seq || e.Seq > bad.Seq && key != "" && t.projection.Key(&e) == key {
				behind[e.Seq] = true
				expected = append(expected, t.texts(`SELECT ($1::bigint, $2::text)::text`, e.Seq, t.projection.Key(&e))...)
			}
		}
		if finding := t.poisoned(bad.Seq, behind, expected); finding != "" {
			return finding
		}
	}
	return ""
}

// followed returns the events that a later one of the same hold follows.
func followed(list []events.Envelope) (found []events.Envelope) {
	for i, e := range list {
		sameHold := func(later events.Envelope) bool { return e.HoldID != "" && later.HoldID == e.HoldID }
		if slices.ContainsFunc(list[i+1:], sameHold) {
			found = append(found, e)
		}
	}
	return found
}

// unknownType is of a version to come.
const unknownType events.Type = "HOLD_TRANSFERRED"

// poisoned compares an application around a bad event with one that never saw what must be parked with it.
func (t *trial) poisoned(seq int64, behind map[int64]bool, parked []string) string {
	size := 1 + t.rng.IntN(len(t.history))
	t.empty()
	if err := t.live(process{projection: leavingOut(t.build(), behind)}); err != nil {
		return fmt.Sprintf("without the events %v: %v", slices.Sorted(maps.Keys(behind)), err)
	}
	want := t.read(0)
	if letter := t.firstLetter(); letter != "" {
		return fmt.Sprintf("without the events %v, which are all of a key from one on, the event %s; the key does not hold together what must be", slices.Sorted(maps.Keys(behind)), letter)
	}
	want[deadLetters] = parked
	t.empty()
	if finding := t.around(process{projection: failingAt(t.build(), seq), batchMax: size}, want, fmt.Sprintf("with event %d failing, in batches of %d", seq, size)); finding != "" {
		return finding
	}
	t.empty()
	known := t.texts(`SELECT type FROM events WHERE seq = $1`, seq)[0]
	t.exec(`UPDATE events SET type = $2 WHERE seq = $1`, seq, string(unknownType))
	defer t.exec(`UPDATE events SET type = $2 WHERE seq = $1`, seq, known)
	return t.around(process{projection: t.build(), batchMax: size}, want, fmt.Sprintf("with event %d of a type that nobody knows, in batches of %d", seq, size))
}

func (t *trial) around(p process, want rows, how string) string {
	if err := t.live(p); err != nil {
		return how + ": " + err.Error()
	}
	if differs := difference(want, t.read(0)); differs != "" {
		return how + ", compared with an application that never saw what must be parked:\n" + differs + "\nthe first dead letter is " + t.firstLetter()
	}
	return ""
}

var errPoisoned = errors.New("projectiontest: this event cannot be applied")

// wanted returns the events of the journal that the projection wants.
func (t *trial) wanted() []events.Envelope {
	all, err := journal.ReadEvents(t.t.Context(), t.db, events.MainPool.Name(), 0, len(t.history))
	if err != nil {
		t.t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e events.Envelope) bool { return !slices.Contains(t.projection.Wants, e.Type) })
}

// leavingOut returns the projection as it is without some events.
func leavingOut(p projections.Projection, seqs map[int64]bool) projections.Projection {
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

// failingAt returns the projection as it is when it cannot apply an event, and finds out when it has written.
func failingAt(p projections.Projection, seq int64) projections.Projection {
	apply := p.Apply
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		if err := apply(ctx, tx, batch); err != nil {
			return err
		}
		if slices.ContainsFunc(batch, func(e projections.Event) bool { return e.Seq == seq }) {
			return errPoisoned
		}
		return nil
	}
	return p
}
