package projectiontest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stockstream/stockstream/events"
)

// entry is an event of a history and its time.
type entry struct {
	at    time.Time
	event events.Event
}

// String returns the entry as a failure message shows it.
func (e entry) String() string {
	payload, err := json.Marshal(e.event)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %s %s", e.at.Format("2006-01-02T15:04:05.000Z"), e.event.Type(), payload)
}

// history returns the first events of the history of a seed. A history is valid: the
// commands of a shop could have written it.
func history(seed uint64, eventCount int) []entry {
	g := &generator{
		rng:       rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // must be repeatable
		now:       startTime,
		available: map[string]int64{},
	}
	list := make([]entry, eventCount)
	for i := range list {
		list[i] = g.next(i)
	}
	return list
}

// startTime is four hours before the end of a year, so that a history spans hours, days
// and years.
var startTime = time.Date(2025, 12, 31, 20, 0, 0, 0, time.UTC)

var (
	skus = []string{"shirt", "jacket", "mug:0.3l", "cap"}
	ttls = []time.Duration{time.Second, time.Minute, 5 * time.Minute, time.Hour}
)

// generator generates a history. It keeps the state of the shop after the events
// generated so far.
type generator struct {
	rng             *rand.Rand
	now             time.Time
	available       map[string]int64 // units per SKU
	active          []activeHold
	holdCount       int // created so far
	adjustmentCount int // made so far by a command
}

type activeHold struct {
	events.HoldCreated
	deadline time.Time
}

// action is a step of the shop that generates one event.
type action int

const (
	addStock action = iota
	removeStock
	setStock // in Redis, by hand
	reserve
	confirm
	cancel
	expire
)

// firstActions start every history, so that a short history has every kind of event too.
var firstActions = []action{
	addStock,
	reserve,
	confirm,
	addStock,
	reserve,
	cancel,
	reserve,
	expire,
	setStock,
	reserve,
	removeStock,
}

// laterActions are the actions after the first ones, from which each is drawn at random.
// An action that is listed more often is more likely.
var laterActions = []action{
	addStock,
	removeStock,
	setStock,
	reserve, reserve, reserve, reserve, reserve,
	confirm, confirm, confirm,
	cancel,
	expire,
}

// next generates the event at index i of the history.
func (g *generator) next(i int) entry {
	a := laterActions[g.rng.IntN(len(laterActions))]
	if i < len(firstActions) {
		a = firstActions[i]
	}
	g.passTime()
	event := g.do(a)
	if event == nil {
		event = g.do(addStock)
	}
	return entry{at: g.now, event: event}
}

// longestSteps are the upper bounds of the time between two events. Each is as likely as
// the others. 1 ns stands for no time at all.
var longestSteps = []time.Duration{
	1, 1, 1,
	2 * time.Second, 2 * time.Second,
	20 * time.Second,
	5 * time.Minute,
	time.Hour,
}

// passTime moves the clock on: often not at all, sometimes by up to an hour.
func (g *generator) passTime() {
	longest := longestSteps[g.rng.IntN(len(longestSteps))]
	step := time.Duration(g.rng.Int64N(int64(longest)))
	g.now = g.now.Add(step).Truncate(time.Millisecond)
}

// do returns the event of an action, or nil if the shop cannot do it now.
func (g *generator) do(a action) events.Event {
	sku := skus[g.rng.IntN(len(skus))]
	units := g.available[sku]
	switch a {
	case addStock:
		return g.adjust(sku, 1+g.rng.Int64N(50), "delivery")
	case removeStock:
		if units > 0 {
			return g.adjust(sku, -1-g.rng.Int64N(units), "shrinkage")
		}
	case setStock:
		if delta := g.rng.Int64N(units+20) - units; delta != 0 {
			return g.adjust(sku, delta, events.ReasonExternal)
		}
	case reserve:
		return g.reserve()
	case confirm:
		return g.confirm(g.takeHold(g.beforeDeadline))
	case cancel:
		return g.cancel(g.takeHold(g.beforeDeadline), events.ReasonRequested)
	case expire:
		return g.cancel(g.takeHold(g.nextDue), events.ReasonExpired)
	}
	return nil
}

func (g *generator) adjust(sku string, delta int64, reason string) events.Event {
	g.available[sku] += delta
	adjusted := &events.StockAdjusted{
		SKU:    sku,
		Delta:  delta,
		Reason: reason,
	}
	if reason != events.ReasonExternal {
		g.adjustmentCount++
		adjusted.IdempotencyKey = fmt.Sprint("adjustment-", g.adjustmentCount)
	}
	return adjusted
}

func (g *generator) reserve() events.Event {
	inStock := slices.DeleteFunc(slices.Clone(skus), func(sku string) bool { return g.available[sku] == 0 })
	if len(inStock) == 0 {
		return nil
	}
	sku := inStock[g.rng.IntN(len(inStock))]
	ttl := ttls[g.rng.IntN(len(ttls))]
	g.holdCount++
	h := activeHold{
		HoldCreated: events.HoldCreated{
			HoldID:         fmt.Sprint("hold-", g.holdCount),
			SKU:            sku,
			Qty:            1 + g.rng.Int64N(min(5, g.available[sku])),
			UserID:         fmt.Sprint("user-", g.rng.IntN(5)),
			TTLMs:          ttl.Milliseconds(),
			IdempotencyKey: fmt.Sprint("key-", g.holdCount),
		},
		deadline: g.now.Add(ttl),
	}
	g.available[sku] -= h.Qty
	g.active = append(g.active, h)
	return &h.HoldCreated
}

func (g *generator) confirm(h *activeHold) events.Event {
	if h == nil {
		return nil
	}
	return &events.HoldConfirmed{
		HoldID:     h.HoldID,
		SKU:        h.SKU,
		Qty:        h.Qty,
		UserID:     h.UserID,
		PaymentRef: "pay-" + h.HoldID,
	}
}

func (g *generator) cancel(h *activeHold, reason string) events.Event {
	if h == nil {
		return nil
	}
	g.available[h.SKU] += h.Qty
	return &events.HoldCancelled{
		HoldID: h.HoldID,
		SKU:    h.SKU,
		Qty:    h.Qty,
		UserID: h.UserID,
		Reason: reason,
	}
}

// takeHold removes the active hold whose index pick returns. It returns nil if pick
// returns -1.
func (g *generator) takeHold(pick func() int) *activeHold {
	i := pick()
	if i < 0 {
		return nil
	}
	h := g.active[i]
	g.active = slices.Delete(g.active, i, i+1)
	return &h
}

// beforeDeadline picks a hold that a shopper can still confirm or cancel. It returns -1
// if there is none.
func (g *generator) beforeDeadline() int {
	var candidates []int
	for i, h := range g.active {
		if h.deadline.After(g.now) {
			candidates = append(candidates, i)
		}
	}
	if len(candidates) == 0 {
		return -1
	}
	return candidates[g.rng.IntN(len(candidates))]
}

// nextDue picks the hold with the earliest deadline, and moves the clock on to that
// deadline. It returns -1 if there is no hold.
func (g *generator) nextDue() int {
	next := -1
	for i, h := range g.active {
		if next < 0 || h.deadline.Before(g.active[next].deadline) {
			next = i
		}
	}
	if next >= 0 && g.active[next].deadline.After(g.now) {
		g.now = g.active[next].deadline
	}
	return next
}
