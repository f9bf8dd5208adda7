package recovery

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
)

// state is everything that the scripts keep in Redis for a pool, folded from its events as of one moment
// of Redis's clock. Holds and keys that the scripts would have forgotten by then are dropped during the
// fold, so its size is that of Redis, not of the journal.
type state struct {
	nowMs      int64 // Redis's clock
	keepMs     int64 // how long ended holds and keys are remembered
	seq        int64 // the last event folded
	stock      map[string]int64
	holds      map[string]*foldedHold
	keys       map[string]foldedKey
	unreadable int64 // events that could not be decoded; the read tables lack them, too
}

type foldedHold struct {
	created    *events.HoldCreated
	expiresAt  int64 // ms
	state      commands.HoldStatus
	paymentRef string
	endedSeq   int64
	forgetAt   int64 // ms; 0 for a live hold
}

// foldedKey is the request behind an idempotency key, and its answer.
type foldedKey struct {
	event    events.Event // *events.HoldCreated or *events.StockAdjusted; shared, do not change it
	eventID  string
	seq      int64
	number   int64 // last value of the answer: a hold's deadline in ms, or the units after an adjustment
	forgetAt int64 // ms
}

// Journals that Redis cannot be restored from.
var (
	// ErrJournalIncomplete is returned for a journal that lacks an event.
	ErrJournalIncomplete = errors.New("the journal is not whole")
	// ErrJournalUnsound is returned for a journal that is complete, but cannot be folded.
	ErrJournalUnsound = errors.New("the journal does not come to a state that could have been")
)

func newState(nowMs int64, keep time.Duration) *state {
	return &state{
		nowMs:  nowMs,
		keepMs: keep.Milliseconds(),
		stock:  map[string]int64{},
		holds:  map[string]*foldedHold{},
		keys:   map[string]foldedKey{},
	}
}

// keyCount returns how many keys the state has to be written to.
func (s *state) keyCount() int64 { return int64(len(s.stock) + len(s.holds) + len(s.keys)) }

// add folds a page of the journal. It fails with ErrJournalIncomplete if the page does not begin with the
// next event, and with ErrJournalUnsound for an event that only a newer version of this program can read.
func (s *state) add(page []events.Envelope) error {
	for i := range page {
		e := &page[i]
		if e.Seq != s.seq+1 {
			return s.missing()
		}
		s.seq = e.Seq
		event, err := e.Decode()
		if err != nil && newer(err) {
			return fmt.Errorf("%w: seq %d: %w: a newer version of this program wrote it, and only that can restore Redis", ErrJournalUnsound, e.Seq, err)
		}
		if err != nil { // it was parked when it arrived, and every read table lacks it
			s.unreadable++
			continue
		}
		s.apply(e, event)
	}
	return nil
}

// newer reports whether an event could not be decoded because a newer version of this program wrote it.
func newer(err error) bool {
	unknown, later := new(events.UnknownTypeError), new(events.NewerVersionError)
	return errors.As(err, &unknown) || errors.As(err, &later)
}

func (s *state) missing() error {
	return fmt.Errorf("%w: seq %d is not there", ErrJournalIncomplete, s.seq+1)
}

func (s *state) apply(e *events.Envelope, event events.Event) {
	atMs := e.At.UnixMilli()
	switch event := event.(type) {
	case *events.StockAdjusted:
		s.stock[event.SKU] += event.Delta
		s.remember(event.IdempotencyKey, foldedKey{event: event, eventID: e.EventID.String(), number: s.stock[event.SKU]}, e.Seq, atMs)
	case *events.HoldCreated:
		s.stock[event.SKU] -= event.Qty
		expiresAt := atMs + event.TTLMs
		s.holds[event.HoldID] = &foldedHold{created: event, expiresAt: expiresAt, state: commands.HoldActive}
		s.remember(event.IdempotencyKey, foldedKey{event: event, number: expiresAt}, e.Seq, atMs)
	case *events.HoldConfirmed:
		s.end(event.HoldID, commands.HoldConfirmed, event.PaymentRef, e.Seq, atMs)
	case *events.HoldCancelled:
		s.stock[event.SKU] += event.Qty
		state := commands.HoldCancelled
		if event.Reason == events.ReasonExpired {
			state = commands.HoldExpired
		}
		s.end(event.HoldID, state, "", e.Seq, atMs)
	}
}

// remember keeps a key's answer, unless Redis would have forgotten it by now.
func (s *state) remember(key string, k foldedKey, seq, atMs int64) {
	k.seq = seq
	k.forgetAt = atMs + s.keepMs
	if key != "" && k.forgetAt > s.nowMs {
		s.keys[key] = k
	}
}

func (s *state) end(holdID string, state commands.HoldStatus, paymentRef string, seq, atMs int64) {
	h := s.holds[holdID]
	forgetAt := atMs + s.keepMs
	switch {
	case h == nil:
	case forgetAt <= s.nowMs:
		delete(s.holds, holdID)
	default:
		h.state = state
		h.paymentRef = paymentRef
		h.endedSeq = seq
		h.forgetAt = forgetAt
	}
}

// check rejects a state that commands cannot leave: negative stock.
func (s *state) check() error {
	for sku, units := range s.stock {
		if units < 0 {
			return fmt.Errorf("%w: %s has %d units available after seq %d", ErrJournalUnsound, sku, units, s.seq)
		}
	}
	return nil
}

// command returns the Redis command that writes the hold's hash as the scripts do.
func (h *foldedHold) command(key string) []any {
	words := make([]any, 0, 16)
	words = append(words, "hset", key,
		"sku", h.created.SKU, "qty", h.created.Qty, "user_id", h.created.UserID, "state", string(h.state), "expires_at", h.expiresAt)
	if h.state == commands.HoldConfirmed {
		words = append(words, "payment_ref", h.paymentRef)
	}
	if h.state != commands.HoldActive {
		words = append(words, "ended_seq", h.endedSeq)
	}
	return words
}

// value returns what the scripts remember of a key. A hold's event does not say whether its ttl was asked for or was
// the default of the day, and the fingerprint covers the difference; so a restored key has found fingerprints.
func (k foldedKey) value() string {
	var prints, id string
	switch event := k.event.(type) {
	case *events.HoldCreated:
		asked := commands.Reserve{SKU: event.SKU, Qty: event.Qty, UserID: event.UserID, TTL: time.Duration(event.TTLMs) * time.Millisecond}
		byDefault := asked
		byDefault.TTL = 0
		prints, id = asked.Fingerprint()+","+byDefault.Fingerprint(), event.HoldID
	case *events.StockAdjusted:
		prints, id = commands.AdjustStock{SKU: event.SKU, Delta: event.Delta, Reason: event.Reason}.Fingerprint(), k.eventID
	}
	return prints + " " + id + " " + strconv.FormatInt(k.seq, 10) + " " + strconv.FormatInt(k.number, 10)
}
