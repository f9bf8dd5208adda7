package recovery

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
)

// HoldCount counts holds and the units that they hold.
type HoldCount struct{ Holds, Units int64 }

func (c *HoldCount) add(units int64) {
	c.Holds++
	c.Units += units
}

// StockDifference is a SKU whose available stock differs between the journal and Redis.
type StockDifference struct {
	SKU            string
	Journal, Redis int64 // available units
}

// LostKey is an idempotency key and its value in Redis.
type LostKey struct{ Key, Value string }

// RedisFacts counts the differences between Redis and the journal.
type RedisFacts struct {
	Created   HoldCount // the journal lacks these holds
	Confirmed HoldCount // the journal lacks that these were confirmed; they may be among Created
	Ended     HoldCount // likewise, for cancelled and expired holds
	// Missing are holds that are active in the journal and that Redis does not have. If
	// Redis is kept, they are cancelled. Redis forgets a hold a day after it ended, and
	// it never had a hold that was made in another Redis.
	Missing HoldCount
	// Conflicting are holds that ended in the journal and are in another state in Redis.
	// They stay as in the journal. Only a fork has such holds.
	Conflicting HoldCount
	Stock       []StockDifference // in order of SKU
	// Keys are the idempotency keys of stock adjustments that the journal lacks. Nothing
	// but the adjustment's own event can bring them back.
	Keys    []LostKey
	Invalid []string // keys of Redis with a value that no command wrote; they are left out
}

// fact is an event that would record a difference between Redis and the journal.
type fact struct {
	event events.Event
	atMs  int64
}

// differ compares Redis with the state that the journal leads to. It returns
// the differences, and the events that record them: applied to the state, they lead to
// Redis's stock and holds. Holds that ended in the journal, and SKUs that only the
// journal knows, stay as they are. nowMs is Redis's clock.
func (s *state) differ(r *redisState, nowMs int64) (RedisFacts, []fact) {
	found := RedisFacts{Invalid: r.invalidKeys}
	changes := map[string][]fact{} // of holds, by SKU
	for _, id := range slices.Sorted(maps.Keys(r.holds)) {
		h := r.holds[id]
		known := s.holds[id]
		switch {
		case known == nil:
			found.Created.add(h.qty)
			changes[h.sku] = append(changes[h.sku], r.creationOf(id, h, nowMs))
		case known.state != events.StatusActive:
			if known.state != h.state {
				found.Conflicting.add(h.qty)
			}
			continue
		default:
			h.sku = known.created.SKU
			h.qty = known.created.Qty
			h.userID = known.created.UserID
		}
		switch h.state {
		case events.StatusActive:
			continue
		case events.StatusConfirmed:
			found.Confirmed.add(h.qty)
		default:
			found.Ended.add(h.qty)
		}
		changes[h.sku] = append(changes[h.sku], fact{event: h.end(id), atMs: nowMs})
	}
	for _, id := range slices.Sorted(maps.Keys(s.holds)) {
		known := s.holds[id]
		if _, exists := r.holds[id]; exists || r.invalidHolds[id] || known.state != events.StatusActive {
			continue
		}
		found.Missing.add(known.created.Qty)
		sku := known.created.SKU
		changes[sku] = append(changes[sku], fact{event: cancelMissing(known.created), atMs: nowMs})
	}
	found.Keys = s.lostKeys(r)
	var facts []fact
	for _, sku := range slices.Sorted(maps.Keys(r.stock)) {
		before, isKnown := s.stock[sku]
		after := r.stock[sku]
		if before != after {
			difference := StockDifference{SKU: sku, Journal: before, Redis: after}
			found.Stock = append(found.Stock, difference)
		}
		if !isKnown || before != after || len(changes[sku]) > 0 {
			facts = append(facts, stockFacts(sku, before, after, isKnown, changes[sku], nowMs)...)
		}
		delete(changes, sku)
	}
	for _, sku := range slices.Sorted(maps.Keys(changes)) { // Redis's log does not name them
		before, isKnown := s.stock[sku]
		after := before
		for _, change := range changes[sku] {
			after += unitsOf(change.event)
		}
		facts = append(facts, stockFacts(sku, before, max(0, after), isKnown, changes[sku], nowMs)...)
	}
	return found, facts
}

// cancelMissing returns the event that cancels a hold which Redis does not have.
func cancelMissing(created *events.HoldCreated) events.Event {
	return &events.HoldCancelled{
		HoldID: created.HoldID,
		SKU:    created.SKU,
		Qty:    created.Qty,
		UserID: created.UserID,
		Reason: events.ReasonRepair,
	}
}

// lostKeys returns the idempotency keys of stock adjustments that the journal lacks, in
// order.
func (s *state) lostKeys(r *redisState) []LostKey {
	var lost []LostKey
	for id, key := range r.keys {
		_, ofHold := r.holds[id]
		if _, journaled := s.keys[key.key]; !ofHold && !journaled {
			lost = append(lost, LostKey{Key: key.key, Value: key.value})
		}
	}
	slices.SortFunc(lost, func(a, b LostKey) int { return strings.Compare(a.Key, b.Key) })
	return lost
}

// stockFacts returns the changes of a SKU's holds, with the adjustments that make its
// stock go from one number of units to another. The stock is below zero after none of
// them: units that are missing for a hold are added before it.
func stockFacts(sku string, before, after int64, isKnown bool, changes []fact, nowMs int64) []fact {
	level, lowest := before, before
	for _, change := range changes {
		level += unitsOf(change.event)
		lowest = min(lowest, level)
	}
	added := max(0, -lowest, after-level)
	removed := level + added - after
	adjust := func(delta int64) fact {
		return fact{
			atMs:  nowMs,
			event: &events.StockAdjusted{SKU: sku, Delta: delta, Reason: events.ReasonRepair},
		}
	}
	var facts []fact
	if added > 0 || !isKnown {
		facts = append(facts, adjust(added))
	}
	facts = append(facts, changes...)
	if removed > 0 {
		facts = append(facts, adjust(-removed))
	}
	return facts
}

// unitsOf returns how many units of its SKU an event of a hold makes available.
func unitsOf(event events.Event) int64 {
	switch event := event.(type) {
	case *events.HoldCreated:
		return -event.Qty
	case *events.HoldCancelled:
		return event.Qty
	}
	return 0
}

// end returns the event that ended a hold.
func (h redisHold) end(id string) events.Event {
	if h.state == events.StatusConfirmed {
		return &events.HoldConfirmed{
			HoldID:     id,
			SKU:        h.sku,
			Qty:        h.qty,
			UserID:     h.userID,
			PaymentRef: h.paymentRef,
		}
	}
	reason := events.ReasonRequested
	if h.state == events.StatusExpired {
		reason = events.ReasonExpired
	}
	return &events.HoldCancelled{
		HoldID: id,
		SKU:    h.sku,
		Qty:    h.qty,
		UserID: h.userID,
		Reason: reason,
	}
}

// creationOf returns the creation of a hold. Redis has the hold's deadline, and neither
// when it was made nor its ttl. The time in its id is that of the process that took the
// request. With the ttl that the request named, a repeated request gets the same answer,
// so the fingerprint of the request decides between whole seconds near that time.
func (r *redisState) creationOf(id string, h redisHold, nowMs int64) fact {
	key := r.keys[id]
	madeMs := min(madeAt(id), h.expiresAt-1, nowMs)
	ttlMs := h.expiresAt - madeMs
	request := commands.Reserve{SKU: h.sku, Qty: h.qty, UserID: h.userID}
	first, _, _ := strings.Cut(key.value, " ")
	fingerprints := strings.Split(first, ",") // a restored key has two
	const secondMs = 1000
	const clockSkew = 5 // seconds by which the clocks of processes and Redis may differ
	nearest := (ttlMs + secondMs/2) / secondMs * secondMs
	for ttl := max(secondMs, nearest-clockSkew*secondMs); ttl <= nearest+clockSkew*secondMs; ttl += secondMs {
		request.TTL = time.Duration(ttl) * time.Millisecond
		if slices.Contains(fingerprints, request.Fingerprint()) {
			ttlMs = ttl
			break
		}
	}
	return fact{
		atMs: h.expiresAt - ttlMs,
		event: &events.HoldCreated{
			HoldID:         id,
			SKU:            h.sku,
			Qty:            h.qty,
			UserID:         h.userID,
			TTLMs:          ttlMs,
			IdempotencyKey: key.key,
		},
	}
}

// madeAt returns the time in a hold's id, in ms. For an id without a time it is far in
// the future.
func madeAt(holdID string) int64 {
	const uuidLength = 36
	id, err := uuid.Parse(holdID[max(0, len(holdID)-uuidLength):])
	if err != nil || id.Version() != 7 {
		return math.MaxInt64
	}
	return int64(binary.BigEndian.Uint64(id[:8]) >> 16)
}

// repairSource stands in the metadata of every event that a repair records.
const repairSource = "repair"

// envelopes returns facts as events of a pool that follow a seq.
func envelopes(pool events.Pool, after int64, facts []fact) ([]events.Envelope, error) {
	list := make([]events.Envelope, 0, len(facts))
	for i, f := range facts {
		msg, err := events.NewMessage(events.NewID(), f.event)
		if err != nil {
			return nil, err
		}
		msg.Metadata.Set("source", repairSource)
		fields, err := events.Codec{}.Marshal(pool.StreamKey(), msg)
		if err != nil {
			return nil, err
		}
		fields[events.FieldSeq] = strconv.FormatInt(after+int64(i)+1, 10)
		fields[events.FieldAt] = strconv.FormatInt(f.atMs, 10)
		entry := events.ParseEntry(pool.Name(), "", fields)
		if entry.Err != nil {
			return nil, fmt.Errorf("record %s of %s: %w", f.event.Type(), entry.Envelope.HoldID, entry.Err)
		}
		list = append(list, entry.Envelope)
	}
	return list, nil
}
