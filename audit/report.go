package audit

import (
	"fmt"
	"sync"
	"time"
)

// Verdict is how an audit ended.
type Verdict string

// The outcomes, from best to worst. Of several, the worst counts.
const (
	// OutcomeClean: everything that was compared agrees. Changes that an operator made to a counter, and that no command
	// has seen yet, are listed as pending and are no fault.
	VerdictClean Verdict = "clean"
	// OutcomeParked: what differs waits behind dead letters, which say why. Nothing is lost, and something is to be done.
	VerdictParked Verdict = "parked"
	// OutcomeIncomplete: some of it could not be compared, because a part of the system does not come up to the journal,
	// or because a newer build wrote what this one cannot decode. In that case what differs may come of it.
	VerdictIncomplete Verdict = "incomplete"
	// OutcomeDiffers: something differs, and nothing explains it.
	VerdictDiffers Verdict = "differs"
)

// Kind says in which way a key differs.
type Kind string

// The ways in which a key can differ.
const (
	KindMissing    Kind = "missing"    // the journal says that it is there
	KindUnexpected Kind = "unexpected" // the journal knows nothing of it
	KindChanged    Kind = "changed"    // it is there, with another content
	KindHole       Kind = "hole"       // events are missing from the sequence
	KindForked     Kind = "forked"     // one seq is one event in the journal and another in the stream
	KindBehind     Kind = "behind"     // it ends before a place that it had come to
	KindImpossible Kind = "impossible" // an event that the rules do not allow after the events before it
	KindCount      Kind = "count"      // there are more or fewer of them than the journal says
)

// The stores that are compared. Read tables go by their own names.
const (
	StoreJournal = "journal"
	StoreStream  = "stream"
	StoreRedis   = "redis"
)

// Difference is one key that is not what the journal says it is.
type Difference struct {
	Store    string `json:"store"` // journal, stream, redis, or a read table
	Kind     Kind   `json:"kind"`
	Key      string `json:"key"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Seq      int64  `json:"seq"`               // where both sides stood
	Because  string `json:"because,omitempty"` // what explains it, for what is parked or pending
}

// listMax is how many differences of a sort a report lists. It counts all of them.
const listMax = 100

// Findings counts what was found of one sort, and lists the first of it.
type Findings struct {
	Count int          `json:"count"`
	First []Difference `json:"first"`
}

func (f *Findings) add(d Difference) {
	f.Count++
	if len(f.First) < listMax {
		f.First = append(f.First, d)
	}
}

// Compared counts what was looked at.
type Compared struct {
	Events  int64 `json:"events"` // folded
	SKUs    int64 `json:"skus"`
	Holds   int64 `json:"holds"`
	Entries int64 `json:"stream_entries"`
}

// Report is what an audit found.
type Report struct {
	Pool        string    `json:"pool"`
	OK          bool      `json:"ok"` // the outcome is clean
	Verdict     Verdict   `json:"outcome"`
	Full        bool      `json:"full"` // it began at zero
	From        int64     `json:"from"` // the verified seq that it began at
	Seq         int64     `json:"seq"`  // the end of the journal when it began: what happened up to here was compared
	StartedAt   time.Time `json:"started_at"`
	TookMs      int64     `json:"took_ms"`
	Compared    Compared  `json:"compared"`
	Differences Findings  `json:"differences"`
	Parked      Findings  `json:"parked"`     // explained by dead letters
	Pending     Findings  `json:"pending"`    // counters set by hand, which the next command will record
	Incomplete  []string  `json:"incomplete"` // what could not be compared, and why
}

// Summary says in one line how it ended.
func (r *Report) Summary() string {
	switch r.Verdict {
	case VerdictDiffers:
		return differences(r.Differences.Count)
	case VerdictIncomplete:
		return "incomplete: " + r.Incomplete[0]
	case VerdictParked:
		return differences(r.Parked.Count) + " behind dead letters"
	}
	return fmt.Sprintf("clean up to seq %d", r.Seq)
}

func differences(count int) string {
	if count == 1 {
		return "1 difference"
	}
	return fmt.Sprintf("%d differences", count)
}

func (r *Report) conclude(took time.Duration, blind bool) {
	r.TookMs = took.Milliseconds()
	switch {
	case blind:
		r.Verdict = VerdictIncomplete
	case r.Differences.Count > 0:
		r.Verdict = VerdictDiffers
	case len(r.Incomplete) > 0:
		r.Verdict = VerdictIncomplete
	case r.Parked.Count > 0:
		r.Verdict = VerdictParked
	default:
		r.Verdict = VerdictClean
	}
	r.OK = r.Verdict == VerdictClean
}

// findings is a report that several comparisons write to at once.
type findings struct {
	mu     sync.Mutex
	report Report
	again  recheck
}

// recheck is what the next audit must look at again: what differs, and is explained.
type recheck struct {
	skus  map[string]bool
	holds map[string]*expectedHold
}

func newFindings(pool string, full bool) *findings { // the lists are empty, not nil: JSON says []
	return &findings{
		report: Report{
			Pool: pool, Full: full, StartedAt: time.Now().UTC(), Incomplete: []string{},
			Differences: Findings{First: []Difference{}}, Parked: Findings{First: []Difference{}}, Pending: Findings{First: []Difference{}},
		},
		again: recheck{skus: map[string]bool{}, holds: map[string]*expectedHold{}},
	}
}

func (f *findings) differs(d Difference) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Differences.add(d)
}

// parked notes a difference that a dead letter explains. Either hold or sku says what to look at again.
func (f *findings) parked(d Difference, hold *expectedHold, sku string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Parked.add(d)
	if hold != nil && len(f.again.holds) <= recheckMax {
		f.again.holds[hold.ID] = hold
	}
	if sku != "" {
		f.again.skus[sku] = true
	}
}

func (f *findings) pending(d Difference) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Pending.add(d)
}

func (f *findings) incomplete(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Incomplete = append(f.report.Incomplete, fmt.Sprintf(format, args...))
}

func (f *findings) compared(count func(*Compared)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count(&f.report.Compared)
}
