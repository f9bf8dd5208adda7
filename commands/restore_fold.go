package commands

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/stockstream/stockstream/events"
)

// fold is what a pool's events come to: everything that the scripts keep in Redis, as of one moment of Redis's clock.
// What they would have forgotten by then is dropped on the way, so that its size is that of Redis, not of the journal.
type fold struct {
	nowMs, keepMs int64 // Redis's clock, and how long ended holds and keys are remembered
	seq           int64 // the last event that is in it
	stock         map[string]int64
	holds         map[string]*foldedHold
	keys          map[string]foldedKey
	unreadable    int64 // how many events could not be read, by the read tables either
}

type foldedHold struct {
	created    *events.HoldCreated
	expiresAt  int64 // ms
	state      HoldStatus
	paymentRef string
	endedSeq   int64
	forgetAt   int64 // ms; 0 for a live hold
}

// foldedKey is what an idempotency key stands for.
type foldedKey struct {
	event    events.Event // *events.HoldCreated or *events.StockAdjusted; shared, as all decoded events
	eventID  string
	seq      int64
	number   int64 // what the answer ends with: a hold's deadline in ms, or the units after an adjustment
	forgetAt int64 // ms
}

// ErrJournalIncomplete is returned for a journal that does not hold every event from the first one on.
var ErrJournalIncomplete = errors.New("the journal is not whole")

// ErrJournalUnsound is returned for a journal that Redis cannot be restored from, though it is whole.
var ErrJournalUnsound = errors.New("the journal does not come to a state that could have been")

func newFold(nowMs int64, keep time.Duration) *fold {
	return &fold{
		nowMs: nowMs, keepMs: keep.Milliseconds(),
		stock: map[string]int64{}, holds: map[string]*foldedHold{}, keys: map[string]foldedKey{},
	}
}

// add takes a page of the journal. It fails with ErrJournalIncomplete where the page does not go on where the fold
// ends, and with ErrJournalUnsound for an event that only a newer version can read.
func (f *fold) add(page []events.Envelope) error {
	for i := range page {
		e := &page[i]
		if e.Seq != f.seq+1 {
			return f.hole()
		}
		f.seq = e.Seq
		event, err := e.Decode()
		if err != nil && newer(err) {
			return fmt.Errorf("%w: seq %d: %w: a newer version of this program wrote it, and only that can restore Redis", ErrJournalUnsound, e.Seq, err)
		}
		if err != nil { // it was parked when it came, and every read table does without it
			f.unreadable++
			continue
		}
		f.apply(e, event)
	}
	return nil
}

// newer reports whether an event could not be read because it is of a type or a version that came after this program.
func newer(err error) bool {
	unknown, later := new(events.UnknownTypeError), new(events.NewerVersionError)
	return errors.As(err, &unknown) || errors.As(err, &later)
}

func (f *fold) hole() error {
	return fmt.Errorf("%w: seq %d is not there", ErrJournalIncomplete, f.seq+1)
}

func (f *fold) apply(e *events.Envelope, event events.Event) {
	atMs := e.At.UnixMilli()
	switch event := event.(type) {
	case *events.StockAdjusted:
		f.stock[event.SKU] += event.Delta
		f.remember(event.IdempotencyKey, foldedKey{event: event, eventID: e.EventID.String(), number: f.stock[event.SKU]}, e.Seq, atMs)
	case *events.HoldCreated:
		f.stock[event.SKU] -= event.Qty
		expiresAt := atMs + event.TTLMs
		f.holds[event.HoldID] = &foldedHold{created: event, expiresAt: expiresAt, state: HoldActive}
		f.remember(event.IdempotencyKey, foldedKey{event: event, number: expiresAt}, e.Seq, atMs)
	case *events.HoldConfirmed:
		f.end(event.HoldID, HoldConfirmed, event.PaymentRef, e.Seq, atMs)
	case *events.HoldCancelled:
		f.stock[event.SKU] += event.Qty
		state := HoldCancelled
		if event.Reason == events.ReasonExpired {
			state = HoldExpired
		}
		f.end(event.HoldID, state, "", e.Seq, atMs)
	}
}

// remember keeps what a key was answered, unless it would be forgotten by now.
func (f *fold) remember(key string, k foldedKey, seq, atMs int64) {
	k.seq, k.forgetAt = seq, atMs+f.keepMs
	if key != "" && k.forgetAt > f.nowMs {
		f.keys[key] = k
	}
}

func (f *fold) end(holdID string, state HoldStatus, paymentRef string, seq, atMs int64) {
	h := f.holds[holdID]
	forgetAt := atMs + f.keepMs
	switch {
	case h == nil:
	case forgetAt <= f.nowMs:
		delete(f.holds, holdID)
	default:
		h.state, h.paymentRef, h.endedSeq, h.forgetAt = state, paymentRef, seq, forgetAt
	}
}

// check holds what must be true of every state that commands can have left.
func (f *fold) check() error {
	for sku, units := range f.stock {
		if units < 0 {
			return fmt.Errorf("%w: %s has %d units available after seq %d", ErrJournalUnsound, sku, units, f.seq)
		}
	}
	return nil
}

// command returns the command that writes the hold's hash as the scripts do.
func (h *foldedHold) command(key string) []any {
	words := make([]any, 0, 16)
	words = append(words, "hset", key,
		"sku", h.created.SKU, "qty", h.created.Qty, "user_id", h.created.UserID, "state", string(h.state), "expires_at", h.expiresAt)
	if h.state == HoldConfirmed {
		words = append(words, "payment_ref", h.paymentRef)
	}
	if h.state != HoldActive {
		words = append(words, "ended_seq", h.endedSeq)
	}
	return words
}

// value returns what the scripts remember of a key. A hold's event does not say whether its ttl was asked for or was
// the default of the day, and the fingerprint covers the difference; so a restored key has both fingerprints.
func (k foldedKey) value() string {
	var prints, id string
	switch event := k.event.(type) {
	case *events.HoldCreated:
		asked := Reserve{SKU: event.SKU, Qty: event.Qty, UserID: event.UserID, TTL: time.Duration(event.TTLMs) * time.Millisecond}
		byDefault := asked
		byDefault.TTL = 0
		prints, id = asked.fingerprint()+","+byDefault.fingerprint(), event.HoldID
	case *events.StockAdjusted:
		prints, id = AdjustStock{SKU: event.SKU, Delta: event.Delta, Reason: event.Reason}.fingerprint(), k.eventID
	}
	return prints + " " + id + " " + strconv.FormatInt(k.seq, 10) + " " + strconv.FormatInt(k.number, 10)
}
