package recovery

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
)

// state has everything that the scripts would keep in Redis for a pool, at one moment of
// Redis's clock. It is folded from the pool's events. The fold drops ended holds and
// idempotency keys that Redis would have deleted by then, so the state grows with Redis,
// not with the journal.
type state struct {
	nowMs      int64                  // Redis's clock
	keepMs     int64                  // how long Redis keeps ended holds and idempotency keys
	seq        int64                  // of the last event folded
	stock      map[string]int64       // available units by SKU
	holds      map[string]*foldedHold // by hold id
	keys       map[string]foldedKey   // by idempotency key
	unreadable int64                  // events that could not be decoded; the read tables lack them, too
}

// foldedHold is a hold as its events leave it.
type foldedHold struct {
	created    *events.HoldCreated
	expiresAt  int64 // ms
	state      events.HoldStatus
	paymentRef string // of a confirmed hold
	endedSeq   int64  // of the event that ended the hold; 0 for a live hold
	forgetAt   int64  // ms, when Redis deletes the hold; 0 for a live hold
}

// foldedKey is an idempotency key: the request that used it, and its answer.
type foldedKey struct {
	event    events.Event // *events.HoldCreated or *events.StockAdjusted; shared, do not change it
	eventID  string
	seq      int64
	number   int64 // last value of the answer: a hold's deadline in ms, or the units after an adjustment
	forgetAt int64 // ms, when Redis deletes the key
}

// Reasons for which a journal cannot restore Redis.
var (
	// ErrJournalIncomplete is returned for a journal that lacks an event.
	ErrJournalIncomplete = errors.New("the journal is incomplete")
	// ErrJournalUnsound is returned for a complete journal if only a newer version of
	// this program can read one of its events, or if no commands lead to them.
	ErrJournalUnsound = errors.New("the journal's events lead to no valid state")
)

// newState returns the state of a pool without events.
func newState(nowMs int64, keep time.Duration) *state {
	return &state{
		nowMs:  nowMs,
		keepMs: keep.Milliseconds(),
		stock:  map[string]int64{},
		holds:  map[string]*foldedHold{},
		keys:   map[string]foldedKey{},
	}
}

// keyCount returns how many keys of Redis the state is written to, without the log head
// and the due set.
func (s *state) keyCount() int64 { return int64(len(s.stock) + len(s.holds) + len(s.keys)) }

// add folds a page of the journal. It fails with ErrJournalIncomplete if the page does
// not begin with the next event, and with ErrJournalUnsound for an event that only a
// newer version of this program can read, or that is impossible (see apply).
func (s *state) add(page []events.Envelope) error {
	for i := range page {
		e := &page[i]
		if e.Seq != s.seq+1 {
			return s.missing()
		}
		s.seq = e.Seq
		event, err := e.Decode()
		if err != nil && newer(err) {
			return fmt.Errorf("%w: seq %d: %w: a newer version of this program wrote the event; restore Redis with that version",
				ErrJournalUnsound, e.Seq, err)
		}
		if err != nil { // the journal parked the event when it arrived, so the read tables lack it, too
			s.unreadable++
			continue
		}
		if err := s.apply(e, event); err != nil {
			return err
		}
	}
	return nil
}

// newer reports whether an event could not be decoded because a newer version of this
// program wrote it.
func newer(err error) bool {
	var unknownType *events.UnknownTypeError
	var newerVersion *events.NewerVersionError
	return errors.As(err, &unknownType) || errors.As(err, &newerVersion)
}

// missing returns the error for a journal that lacks the next event.
func (s *state) missing() error {
	return fmt.Errorf("%w: seq %d is missing", ErrJournalIncomplete, s.seq+1)
}

// apply changes the state as the event did in Redis. It fails with ErrJournalUnsound if
// the event is impossible after the events before it: a hold that is created twice, an
// end of a hold that is not live, or an end with another sku or qty than the creation.
func (s *state) apply(e *events.Envelope, event events.Event) error {
	atMs := e.At.UnixMilli()
	switch event := event.(type) {
	case *events.StockAdjusted:
		s.stock[event.SKU] += event.Delta
		key := foldedKey{event: event, eventID: e.EventID.String(), number: s.stock[event.SKU]}
		s.remember(event.IdempotencyKey, key, e.Seq, atMs)
	case *events.HoldCreated:
		if s.holds[event.HoldID] != nil {
			return impossible(e.Seq, "hold %s is created twice", event.HoldID)
		}
		s.stock[event.SKU] -= event.Qty
		expiresAt := atMs + event.TTLMs
		s.holds[event.HoldID] = &foldedHold{
			created:   event,
			expiresAt: expiresAt,
			state:     events.StatusActive,
		}
		s.remember(event.IdempotencyKey, foldedKey{event: event, number: expiresAt}, e.Seq, atMs)
	case *events.HoldConfirmed:
		h, err := s.liveHold(e.Seq, event.HoldID, event.SKU, event.Qty)
		if err != nil || h == nil {
			return err
		}
		h.paymentRef = event.PaymentRef
		s.end(h, events.StatusConfirmed, e.Seq, atMs)
	case *events.HoldCancelled:
		h, err := s.liveHold(e.Seq, event.HoldID, event.SKU, event.Qty)
		if err != nil || h == nil {
			return err
		}
		s.stock[event.SKU] += event.Qty
		s.end(h, events.CancelledStatus(event.Reason), e.Seq, atMs)
	}
	return nil
}

// liveHold returns the hold that the event with this seq ends. It returns nil if the fold
// has no such hold, because its creation could not be decoded, or because it ended and
// was dropped. Such an end is left out: it must not return units that the fold did not
// take from the stock, or returned before.
func (s *state) liveHold(seq int64, id, sku string, qty int64) (*foldedHold, error) {
	h := s.holds[id]
	switch {
	case h == nil:
		return nil, nil
	case h.state != events.StatusActive:
		return nil, impossible(seq, "hold %s ends and is not live: seq %d has ended it", id, h.endedSeq)
	case h.created.SKU != sku || h.created.Qty != qty:
		return nil, impossible(seq, "hold %s ends with %d of %s, and was created with %d of %s",
			id, qty, sku, h.created.Qty, h.created.SKU)
	}
	return h, nil
}

// advice says how an operator goes on after an impossible event.
const advice = "`stockstream audit --full` lists every impossible event, " +
	"and docs/recovery.md says how to put one right"

// impossible returns the error for an event that no command appends after the events
// before it.
func impossible(seq int64, format string, args ...any) error {
	return fmt.Errorf("%w: seq %d: %s; %s", ErrJournalUnsound, seq, fmt.Sprintf(format, args...), advice)
}

// remember adds an idempotency key to the state, unless Redis would have deleted it by
// now.
func (s *state) remember(key string, k foldedKey, seq, atMs int64) {
	k.seq = seq
	k.forgetAt = atMs + s.keepMs
	if key != "" && k.forgetAt > s.nowMs {
		s.keys[key] = k
	}
}

// end ends a live hold, and drops it if Redis would have deleted it by now.
func (s *state) end(h *foldedHold, state events.HoldStatus, seq, atMs int64) {
	h.state = state
	h.endedSeq = seq
	h.forgetAt = atMs + s.keepMs
	if h.forgetAt <= s.nowMs {
		delete(s.holds, h.created.HoldID)
	}
}

// check rejects negative stock, which no sequence of commands leads to.
func (s *state) check() error {
	for sku, units := range s.stock {
		if units < 0 {
			return fmt.Errorf("%w: %s has %d units available after seq %d; %s",
				ErrJournalUnsound, sku, units, s.seq, advice)
		}
	}
	return nil
}

// command returns the Redis command that writes the hold's hash as the scripts do.
func (h *foldedHold) command(key string) []any {
	words := make([]any, 0, 16)
	words = append(words, "hset", key,
		"sku", h.created.SKU,
		"qty", h.created.Qty,
		"user_id", h.created.UserID,
		"state", string(h.state),
		"expires_at", h.expiresAt)
	if h.state == events.StatusConfirmed {
		words = append(words, "payment_ref", h.paymentRef)
	}
	if h.state != events.StatusActive {
		words = append(words, "ended_seq", h.endedSeq)
	}
	return words
}

// value returns the key's value in Redis, as the scripts write it: fingerprint, id, seq
// and number. The event of a hold does not say whether the request named its ttl or used
// the default of that time, and the two have different fingerprints. So the restored key
// of a hold has both, separated by a comma.
func (k foldedKey) value() string {
	var fingerprints, id string
	switch event := k.event.(type) {
	case *events.HoldCreated:
		withTTL := commands.Reserve{
			SKU:    event.SKU,
			Qty:    event.Qty,
			UserID: event.UserID,
			TTL:    time.Duration(event.TTLMs) * time.Millisecond,
		}
		withDefault := withTTL
		withDefault.TTL = 0
		fingerprints = withTTL.Fingerprint() + "," + withDefault.Fingerprint()
		id = event.HoldID
	case *events.StockAdjusted:
		request := commands.AdjustStock{SKU: event.SKU, Delta: event.Delta, Reason: event.Reason}
		fingerprints = request.Fingerprint()
		id = k.eventID
	}
	seq := strconv.FormatInt(k.seq, 10)
	number := strconv.FormatInt(k.number, 10)
	return fingerprints + " " + id + " " + seq + " " + number
}
