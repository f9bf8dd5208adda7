package commands

import (
	"sync"
	"sync/atomic"
)

// Gate says whether a pool takes commands. It starts closed. The recovery opens it once
// it has compared Redis with the journal, and closes it when the two no longer fit
// together. Its methods are safe for concurrent use.
//
// The gate also keeps the highest position in the log that Redis acknowledged to this
// process. Every call of the decide script carries it, and the script refuses to decide
// in a log that ends before it: a Redis that came back older than it was must not sell.
type Gate struct {
	open        atomic.Bool
	closeReason atomic.Pointer[error]
	journalLag  atomic.Pointer[JournalLag]
	refused     chan struct{}

	mu    sync.Mutex
	epoch int64
	seq   int64
}

// JournalLag is how far the journal was behind the log when the two were last compared.
type JournalLag struct {
	Seq    int64 // the seq at which the journal ended when Postgres last answered
	Events int64 // the number of events that were decided since, and are not journaled
	Max    int64 // at this number, reserves are refused; 0 for no limit
}

// AtLimit reports whether so many events are not journaled that reserves are refused.
func (l JournalLag) AtLimit() bool { return l.Max > 0 && l.Events >= l.Max }

// NewGate returns a closed gate.
func NewGate() *Gate { return &Gate{refused: make(chan struct{}, 1)} }

// IsOpen reports whether commands are decided.
func (g *Gate) IsOpen() bool { return g.open.Load() }

// Open lets commands through.
func (g *Gate) Open() {
	g.closeReason.Store(nil)
	g.open.Store(true)
}

// Close refuses commands with NOT_READY. Ready reports the reason.
func (g *Gate) Close(reason error) {
	g.closeReason.Store(&reason)
	g.open.Store(false)
}

// CloseReason returns the reason of the last Close, or nil if the gate is open or was
// never closed.
func (g *Gate) CloseReason() error {
	if reason := g.closeReason.Load(); reason != nil {
		return *reason
	}
	return nil
}

// SetJournalLag records how far the journal is behind.
func (g *Gate) SetJournalLag(lag JournalLag) { g.journalLag.Store(&lag) }

// JournalLag returns what SetJournalLag recorded last. Before the first comparison, known
// is false.
func (g *Gate) JournalLag() (lag JournalLag, known bool) {
	if lag := g.journalLag.Load(); lag != nil {
		return *lag, true
	}
	return JournalLag{}, false
}

// refuseGrowth returns ErrJournalBehind if so many events are not journaled that no
// command may add to what can be sold or held. Commands that end a hold, or take stock
// away, do not ask.
func (g *Gate) refuseGrowth() error {
	if lag := g.journalLag.Load(); lag != nil && lag.AtLimit() {
		return ErrJournalBehind
	}
	return nil
}

// Acknowledged returns the highest position that Redis acknowledged to this process.
func (g *Gate) Acknowledged() (epoch, seq int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch, g.seq
}

// Acknowledge raises the highest acknowledged position. A lower one changes nothing.
func (g *Gate) Acknowledge(epoch, seq int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if epoch > g.epoch || epoch == g.epoch && seq > g.seq {
		g.epoch = epoch
		g.seq = seq
	}
}

// Refused receives a value after the script refused to decide in the log that it found.
// Redis should then be compared with the journal at once.
func (g *Gate) Refused() <-chan struct{} { return g.refused }

// noticeRefusal signals Refused if err is a refusal of the log as a whole.
func (g *Gate) noticeRefusal(err error) {
	if !RefusesEveryCommand(err) {
		return
	}
	select {
	case g.refused <- struct{}{}:
	default: // a signal is pending
	}
}
