package audit

import (
	"fmt"
	"strconv"
	"time"

	"github.com/stockstream/stockstream/events"
)

// expectedStock is the stock of a SKU as the journal has it, in units.
// Available + held + sold + removed = received.
type expectedStock struct {
	Received int64
	Removed  int64
	Held     int64
	Sold     int64
}

// Available returns the units that can be reserved.
func (s *expectedStock) Available() int64 { return s.Received - s.Removed - s.Held - s.Sold }

// expectedHold is a hold as the journal has it. Times are in milliseconds, by Redis's
// clock.
type expectedHold struct {
	ID             string
	SKU            string
	Qty            int64
	UserID         string
	IdempotencyKey string
	CreatedAtMs    int64
	ExpiresAtMs    int64
	Status         string
	PaymentRef     string // "" unless it was confirmed
	EndedAtMs      int64  // 0 for a live hold
	EndedSeq       int64  // 0 for a live hold
}

// The statuses of a hold.
const (
	statusActive    = string(events.StatusActive)
	statusConfirmed = string(events.StatusConfirmed)
	statusCancelled = string(events.StatusCancelled)
	statusExpired   = string(events.StatusExpired)
)

// clock formats a time given in milliseconds.
func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// expected is the state that Redis and the read tables should have at one seq. It is
// computed from the journal's events.
//
// Up to the audit's end it tracks every key that an event changes. A hold that ends moves
// from holds to ended, to be compared and forgotten, so memory does not grow with
// history.
//
// Past the audit's end (pastEnd) it updates the tracked keys, which are still to be
// compared. It adds further keys only if the audit is full. A hold that ends stays in
// holds, with its final status.
type expected struct {
	seq      int64
	stock    map[string]*expectedStock
	holds    map[string]*expectedHold
	ended    []*expectedHold // the holds that ended since the caller last took this list
	hours    *hours
	outdated map[string]bool // ids of holds whose rows in audit_holds must be deleted or replaced
	totals   totals

	unreadable      int64  // how many events this build could not decode
	firstUnreadable string // the seq and error of the first of them

	full    bool
	pastEnd bool
	report  func(Difference) // receives the faults of the journal itself
}

// totals count all holds and orders, tracked or not. holds and orders are complete only
// in a full audit.
type totals struct {
	live   int64 // live holds
	holds  int64
	orders int64
}

func newExpected(full bool, report func(Difference)) *expected {
	return &expected{
		stock:    map[string]*expectedStock{},
		holds:    map[string]*expectedHold{},
		hours:    newHours(),
		outdated: map[string]bool{},
		full:     full,
		report:   report,
	}
}

// apply applies the next event. It reports an event that is impossible after the events
// before it, and applies as much of it as makes sense.
func (e *expected) apply(event *journalEvent) {
	if event.seq != e.seq+1 {
		e.report(Difference{
			Store:    StoreJournal,
			Kind:     KindHole,
			Key:      seqKey(e.seq + 1),
			Expected: fmt.Sprintf("event %d after event %d", e.seq+1, e.seq),
			Found:    fmt.Sprintf("event %d", event.seq),
			Seq:      e.seq,
		})
	}
	e.seq = event.seq
	if event.fault != "" {
		e.unreadable++
		if e.unreadable == 1 {
			e.firstUnreadable = fmt.Sprintf("seq %d: %s", event.seq, event.fault)
		}
		return
	}
	switch event.eventType {
	case events.TypeStockAdjusted:
		e.adjustStock(event)
	case events.TypeHoldCreated:
		e.createHold(event)
	case events.TypeHoldConfirmed:
		e.endHold(event, statusConfirmed)
	case events.TypeHoldCancelled:
		e.endHold(event, string(events.CancelledStatus(event.ref)))
	}
}

// seqKey is the key of a difference that concerns one seq of the journal or the stream.
func seqKey(seq int64) string { return "seq " + strconv.FormatInt(seq, 10) }

func (e *expected) adjustStock(event *journalEvent) {
	stock := e.trackedStock(event.sku)
	if stock == nil {
		return
	}
	if event.qty < 0 {
		stock.Removed -= event.qty
	} else {
		stock.Received += event.qty
	}
	e.checkAvailable(event, stock)
}

func (e *expected) createHold(event *journalEvent) {
	e.hours.add(event, hourReserved)
	e.totals.live++
	e.totals.holds++
	if stock := e.trackedStock(event.sku); stock != nil {
		stock.Held += event.qty
		e.checkAvailable(event, stock)
	}
	if e.pastEnd && !e.full {
		return
	}
	if e.holds[event.hold] != nil {
		e.reportImpossible(event, "a new hold", "hold "+event.hold+" is created twice")
	}
	e.holds[event.hold] = &expectedHold{
		ID:             event.hold,
		SKU:            event.sku,
		Qty:            event.qty,
		UserID:         event.user,
		IdempotencyKey: event.ref,
		CreatedAtMs:    event.atMs,
		ExpiresAtMs:    event.atMs + event.ttlMs,
		Status:         statusActive,
	}
}

func (e *expected) endHold(event *journalEvent, status string) {
	e.hours.add(event, hourColumn(status))
	e.totals.live--
	if status == statusConfirmed {
		e.totals.orders++
	}
	if stock := e.trackedStock(event.sku); stock != nil {
		stock.Held -= event.qty
		if status == statusConfirmed {
			stock.Sold += event.qty
		}
	}
	hold := e.holds[event.hold]
	switch {
	case hold == nil && e.pastEnd && !e.full:
		return
	case hold == nil || hold.Status != statusActive:
		e.reportImpossible(event, "the end of a live hold", "hold "+event.hold+" ends and is not live")
		return
	case hold.SKU != event.sku || hold.Qty != event.qty:
		e.reportImpossible(event, fmt.Sprintf("%d of %s", hold.Qty, hold.SKU),
			fmt.Sprintf("hold %s ends with %d of %s", event.hold, event.qty, event.sku))
	}
	hold.Status = status
	hold.EndedAtMs = event.atMs
	hold.EndedSeq = event.seq
	if status == statusConfirmed {
		hold.PaymentRef = event.ref
	}
	if !e.pastEnd {
		delete(e.holds, event.hold)
		e.ended = append(e.ended, hold)
	}
}

// trackedStock returns the stock of a SKU, or nil if the SKU is not tracked.
func (e *expected) trackedStock(sku string) *expectedStock {
	stock := e.stock[sku]
	if stock == nil && (e.full || !e.pastEnd) {
		stock = &expectedStock{}
		e.stock[sku] = stock
	}
	return stock
}

func (e *expected) checkAvailable(event *journalEvent, stock *expectedStock) {
	if stock.Available() < 0 {
		e.reportImpossible(event, "0 or more units available",
			fmt.Sprintf("%d of %s available after %s", stock.Available(), event.sku, event.eventType))
	}
}

func (e *expected) reportImpossible(event *journalEvent, want, found string) {
	e.report(Difference{
		Store:    StoreJournal,
		Kind:     KindImpossible,
		Key:      seqKey(event.seq),
		Expected: want,
		Found:    found,
		Seq:      event.seq,
	})
}
