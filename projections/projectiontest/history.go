package projectiontest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stockstream/stockstream/events"
)

// entry is an event and when it happened.
type entry struct {
	at    time.Time
	event events.Event
}

// String returns the entry as a report shows it.
func (e entry) String() string {
	payload, err := json.Marshal(e.event)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %s", e.at.Format("2006-01-02T15:04:05.000Z"), e.event.Type(), payload)
}

// history returns the first events of the history that a seed makes: what a shop may go through that keeps its books.
func history(seed uint64, count int) []entry {
	s := &shop{rng: rand.New(rand.NewPCG(seed, 0)), at: opened, available: map[string]int64{}} //nolint:gosec // to be repeatable
	list := make([]entry, count)
	for i := range list {
		list[i] = s.next(i)
	}
	return list
}

// opened is four hours before the turn of a year, so that hours, days and years pass.
var opened = time.Date(2025, 12, 31, 20, 0, 0, 0, time.UTC)

var (
	skus = []string{"shirt", "jacket", "mug:0.3l", "cap"}
	ttls = []time.Duration{time.Second, time.Minute, 5 * time.Minute, time.Hour}
)

// shop is what the events so far have come to.
type shop struct {
	rng         *rand.Rand
	at          time.Time
	available   map[string]int64
	live        []hold
	holds       int // made so far
	adjustments int // likewise
}

type hold struct {
	events.HoldCreated
	deadline time.Time
}

type step int

const (
	deliver step = iota
	takeOut
	setByHand
	reserve
	confirm
	cancel
	expire
)

// opening has a bit of everything, so that the shortest of histories does.
var opening = []step{deliver, reserve, confirm, deliver, reserve, cancel, reserve, expire, setByHand, reserve, takeOut}

// frequent is what else happens, as often as it stands here.
var frequent = []step{deliver, takeOut, setByHand, reserve, reserve, reserve, reserve, reserve, confirm, confirm, confirm, cancel, expire}

func (s *shop) next(place int) entry {
	kind := frequent[s.rng.IntN(len(frequent))]
	if place < len(opening) {
		kind = opening[place]
	}
	s.pass()
	event := s.do(kind)
	if event == nil {
		event = s.do(deliver)
	}
	return entry{s.at, event}
}

// pass lets time pass: often none, now and then hours.
func (s *shop) pass() {
	longest := []time.Duration{1, 1, 1, 2 * time.Second, 2 * time.Second, 20 * time.Second, 5 * time.Minute, time.Hour}[s.rng.IntN(8)]
	s.at = s.at.Add(time.Duration(s.rng.Int64N(int64(longest)))).Truncate(time.Millisecond)
}

// do returns nil for what cannot be done as things stand.
func (s *shop) do(kind step) events.Event {
	sku := skus[s.rng.IntN(len(skus))]
	units := s.available[sku]
	switch kind {
	case deliver:
		return s.adjust(sku, 1+s.rng.Int64N(50), "delivery")
	case takeOut:
		if units > 0 {
			return s.adjust(sku, -1-s.rng.Int64N(units), "shrinkage")
		}
	case setByHand:
		if delta := s.rng.Int64N(units+20) - units; delta != 0 {
			return s.adjust(sku, delta, events.ReasonExternal)
		}
	case reserve:
		return s.reserve()
	case confirm:
		if h := s.end(s.undue); h != nil {
			return &events.HoldConfirmed{HoldID: h.HoldID, SKU: h.SKU, Qty: h.Qty, UserID: h.UserID, PaymentRef: "pay-" + h.HoldID}
		}
	case cancel:
		return s.giveBack(s.end(s.undue), events.ReasonRequested)
	case expire:
		return s.giveBack(s.end(s.nextDue), events.ReasonExpired)
	}
	return nil
}

func (s *shop) adjust(sku string, delta int64, reason string) events.Event {
	s.available[sku] += delta
	adjusted := &events.StockAdjusted{SKU: sku, Delta: delta, Reason: reason}
	if reason != events.ReasonExternal {
		s.adjustments++
		adjusted.IdempotencyKey = fmt.Sprint("adjustment-", s.adjustments)
	}
	return adjusted
}

func (s *shop) reserve() events.Event {
	stocked := slices.DeleteFunc(slices.Clone(skus), func(sku string) bool { return s.available[sku] == 0 })
	if len(stocked) == 0 {
		return nil
	}
	sku := stocked[s.rng.IntN(len(stocked))]
	ttl := ttls[s.rng.IntN(len(ttls))]
	s.holds++
	h := hold{deadline: s.at.Add(ttl), HoldCreated: events.HoldCreated{
		HoldID: fmt.Sprint("hold-", s.holds), SKU: sku, Qty: 1 + s.rng.Int64N(min(5, s.available[sku])), UserID: fmt.Sprint("user-", s.rng.IntN(5)),
		TTLMs: ttl.Milliseconds(), IdempotencyKey: fmt.Sprint("key-", s.holds),
	}}
	s.available[sku] -= h.Qty
	s.live = append(s.live, h)
	return &h.HoldCreated
}

// undue picks a hold that a shopper can still end.
func (s *shop) undue() int {
	var places []int
	for i, h := range s.live {
		if h.deadline.After(s.at) {
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		return -1
	}
	return places[s.rng.IntN(len(places))]
}

// nextDue picks the hold whose deadline is the earliest, and waits for it.
func (s *shop) nextDue() int {
	place := -1
	for i, h := range s.live {
		if place < 0 || h.deadline.Before(s.live[place].deadline) {
			place = i
		}
	}
	if place >= 0 && s.live[place].deadline.After(s.at) {
		s.at = s.live[place].deadline
	}
	return place
}

func (s *shop) end(pick func() int) *hold {
	place := pick()
	if place < 0 {
		return nil
	}
	h := s.live[place]
	s.live = slices.Delete(s.live, place, place+1)
	return &h
}

func (s *shop) giveBack(h *hold, reason string) events.Event {
	if h == nil {
		return nil
	}
	s.available[h.SKU] += h.Qty
	return &events.HoldCancelled{HoldID: h.HoldID, SKU: h.SKU, Qty: h.Qty, UserID: h.UserID, Reason: reason}
}
