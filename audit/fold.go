package audit

import (
	"fmt"
	"strconv"
	"time"

	"github.com/stockstream/stockstream/events"
)

// expectedStock is what the journal says of a SKU, in units. Available + held + sold + removed = received.
type expectedStock struct {
	Received, Removed, Held, Sold int64
}

// Available is what can be reserved now.
func (s *expectedStock) Available() int64 { return s.Received - s.Removed - s.Held - s.Sold }

// expectedHold is what the journal says of a hold. Times are in milliseconds, by Redis's clock.
type expectedHold struct {
	ID, SKU                string
	Qty                    int64
	UserID, IdempotencyKey string
	CreatedAtMs            int64
	ExpiresAtMs            int64
	Status                 string
	PaymentRef             string
	EndedAtMs, EndedSeq    int64
}

// Statuses of a hold.
const (
	statusActive    = "ACTIVE"
	statusConfirmed = "CONFIRMED"
	statusCancelled = "CANCELLED"
	statusExpired   = "EXPIRED"
)

// String says how the hold stands, in the order in which people ask.
func (h *expectedHold) String() string {
	text := fmt.Sprintf("%s, %d of %s for %s, until %s", h.Status, h.Qty, h.SKU, h.UserID, clock(h.ExpiresAtMs))
	if h.PaymentRef != "" {
		text += ", paid by " + h.PaymentRef
	}
	return text
}

func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// expected is the state that a journal comes to at a seq. Up to the audit's end it follows every key; holds that end leave
// it, for comparison. From then on (settled) it keeps what it has, which is yet to be compared, and takes up no other
// keys, unless it has to know all of them.
type expected struct {
	seq    int64
	stock  map[string]*expectedStock
	holds  map[string]*expectedHold // while folding: live ones that it knows; once settled: all that are to be compared
	ended  []*expectedHold          // since they were last taken
	hours  *hours
	gone   map[string]bool // of those that the verified state had: ids that ended since
	totals totals

	unreadable int64  // events that this build cannot decode
	firstFault string // of the first of them

	all     bool // it began at zero, and goes on to follow every key
	settled bool
	report  func(Difference)
}

// totals count all there is, whether or not it is followed. Holds and orders are complete only in a full audit.
type totals struct{ live, holds, orders int64 }

func newExpected(all bool, report func(Difference)) *expected {
	return &expected{all: all, stock: map[string]*expectedStock{}, holds: map[string]*expectedHold{}, hours: newHours(), gone: map[string]bool{}, report: report}
}

// apply takes the next event. What the rules do not allow is reported, and folded as far as it makes sense.
func (f *expected) apply(r *journalEvent) {
	if r.seq != f.seq+1 {
		f.report(Difference{Store: StoreJournal, Kind: KindHole, Key: "seq " + strconv.FormatInt(f.seq+1, 10), Seq: f.seq,
			Expected: fmt.Sprintf("event %d after event %d", f.seq+1, f.seq), Found: fmt.Sprintf("event %d", r.seq)})
	}
	f.seq = r.seq
	if r.fault != "" {
		if f.unreadable++; f.unreadable == 1 {
			f.firstFault = fmt.Sprintf("seq %d: %s", r.seq, r.fault)
		}
		return
	}
	switch r.kind {
	case events.TypeStockAdjusted:
		f.adjust(r)
	case events.TypeHoldCreated:
		f.create(r)
	case events.TypeHoldConfirmed:
		f.end(r, statusConfirmed)
	case events.TypeHoldCancelled:
		f.end(r, cancelledStatus(r.ref))
	}
}

func cancelledStatus(reason string) string {
	if reason == events.ReasonExpired {
		return statusExpired
	}
	return statusCancelled
}

func (f *expected) adjust(r *journalEvent) {
	stock := f.of(r.sku)
	if stock == nil {
		return
	}
	if r.qty < 0 {
		stock.Removed -= r.qty
	} else {
		stock.Received += r.qty
	}
	f.checkAvailable(r, stock)
}

func (f *expected) create(r *journalEvent) {
	f.hours.add(r, hourReserved)
	f.totals.live++
	f.totals.holds++
	if stock := f.of(r.sku); stock != nil {
		stock.Held += r.qty
		f.checkAvailable(r, stock)
	}
	if f.settled && !f.all {
		return
	}
	if f.holds[r.hold] != nil {
		f.impossible(r, "a hold that is new", "hold "+r.hold+" is made twice")
	}
	f.holds[r.hold] = &expectedHold{
		ID: r.hold, SKU: r.sku, Qty: r.qty, UserID: r.user, IdempotencyKey: r.ref, Status: statusActive,
		CreatedAtMs: r.atMs, ExpiresAtMs: r.atMs + r.ttlMs,
	}
}

func (f *expected) end(r *journalEvent, status string) {
	f.hours.add(r, hourColumn(status))
	f.totals.live--
	if status == statusConfirmed {
		f.totals.orders++
	}
	if stock := f.of(r.sku); stock != nil {
		stock.Held -= r.qty
		if status == statusConfirmed {
			stock.Sold += r.qty
		}
	}
	hold := f.holds[r.hold]
	switch {
	case hold == nil && f.settled && !f.all:
		return
	case hold == nil || hold.Status != statusActive:
		f.impossible(r, "the end of a live hold", "hold "+r.hold+" is not live, and ends")
		return
	case hold.SKU != r.sku || hold.Qty != r.qty:
		f.impossible(r, fmt.Sprintf("%d of %s", hold.Qty, hold.SKU), fmt.Sprintf("hold %s ends with %d of %s", r.hold, r.qty, r.sku))
	}
	hold.Status, hold.EndedAtMs, hold.EndedSeq = status, r.atMs, r.seq
	if status == statusConfirmed {
		hold.PaymentRef = r.ref
	}
	if !f.settled {
		delete(f.holds, r.hold)
		f.ended = append(f.ended, hold)
	}
}

// of returns the stock that an event changes, or nil where it is not followed any more.
func (f *expected) of(sku string) *expectedStock {
	stock := f.stock[sku]
	if stock == nil && (f.all || !f.settled) {
		stock = &expectedStock{}
		f.stock[sku] = stock
	}
	return stock
}

func (f *expected) checkAvailable(r *journalEvent, stock *expectedStock) {
	if stock.Available() < 0 {
		f.impossible(r, "units that are there", fmt.Sprintf("%d of %s available after %s", stock.Available(), r.sku, r.kind))
	}
}

func (f *expected) impossible(r *journalEvent, expected, found string) {
	f.report(Difference{Store: StoreJournal, Kind: KindImpossible, Key: "seq " + strconv.FormatInt(r.seq, 10), Expected: expected, Found: found, Seq: r.seq})
}
