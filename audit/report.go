package audit

import (
	"fmt"
	"sync"
	"time"
)

// Verdict is the overall result of an audit.
type Verdict string

// The verdicts, from best to worst. An audit to which several apply gets the worst of
// them, with one exception: if this build could not decode some events, the differences
// may be false, and the verdict is VerdictIncomplete.
const (
	// VerdictClean means that all stores agree with the journal. A counter that an
	// operator changed and that no command has recorded yet is listed as pending, and is
	// no difference.
	VerdictClean Verdict = "clean"
	// VerdictParked means that dead letters explain every difference. No event is lost,
	// but an operator must retry or discard the letters.
	VerdictParked Verdict = "parked"
	// VerdictIncomplete means that some stores could not be compared: one of them does
	// not reach the journal's end, or a newer build wrote events that this build cannot
	// decode.
	VerdictIncomplete Verdict = "incomplete"
	// VerdictDiffers means that there are differences that no dead letter explains.
	VerdictDiffers Verdict = "differs"
)

// Kind is the way in which a key differs from the journal.
type Kind string

// The kinds of difference.
const (
	KindMissing    Kind = "missing"    // the store lacks a key that the journal has
	KindUnexpected Kind = "unexpected" // the store has a key that no event accounts for
	KindChanged    Kind = "changed"    // the key has another content
	KindHole       Kind = "hole"       // one or more seqs are missing from the sequence
	KindForked     Kind = "forked"     // journal and stream have different events under one seq
	KindBehind     Kind = "behind"     // the log or the journal ends before a seq that it had reached
	KindImpossible Kind = "impossible" // the event breaks a rule, given the events before it
	KindCount      Kind = "count"      // the number of rows or members differs
)

// The stores that are compared, beside the read tables, whose store is the table's name.
const (
	StoreJournal = "journal"
	StoreStream  = "stream"
	StoreRedis   = "redis"
)

// Difference is one key whose content is not the expected one.
type Difference struct {
	Store    string `json:"store"` // journal, stream, redis, or a read table
	Kind     Kind   `json:"kind"`
	Key      string `json:"key"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Seq      int64  `json:"seq"`               // the seq at which the key was compared
	Because  string `json:"because,omitempty"` // why it differs, if it is parked or pending
}

// listMax is how many differences a Findings lists. It counts all of them.
const listMax = 100

// Findings counts differences, and lists the first listMax of them.
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

// Compared counts the things that an audit compared.
type Compared struct {
	Events  int64 `json:"events"` // applied to the expected state
	SKUs    int64 `json:"skus"`
	Holds   int64 `json:"holds"`
	Entries int64 `json:"stream_entries"`
}

// Report is the result of an audit.
type Report struct {
	Pool    string  `json:"pool"`
	OK      bool    `json:"ok"` // the verdict is clean
	Verdict Verdict `json:"outcome"`
	Full    bool    `json:"full"` // the audit started at seq 0
	From    int64   `json:"from"` // the verified seq at which the audit started
	// Seq is the journal's seq when the audit started. Every event up to it was compared.
	Seq         int64     `json:"seq"`
	StartedAt   time.Time `json:"started_at"`
	TookMs      int64     `json:"took_ms"`
	Compared    Compared  `json:"compared"`
	Differences Findings  `json:"differences"`
	Parked      Findings  `json:"parked"`     // differences that dead letters explain
	Pending     Findings  `json:"pending"`    // counters set by hand, which the next command will record
	Incomplete  []string  `json:"incomplete"` // which stores could not be compared, and why
}

// Summary describes the verdict in one line.
func (r *Report) Summary() string {
	switch r.Verdict {
	case VerdictDiffers:
		return countDifferences(r.Differences.Count)
	case VerdictIncomplete:
		return "incomplete: " + r.Incomplete[0]
	case VerdictParked:
		return countDifferences(r.Parked.Count) + " behind dead letters"
	}
	return fmt.Sprintf("clean up to seq %d", r.Seq)
}

func countDifferences(count int) string {
	if count == 1 {
		return "1 difference"
	}
	return fmt.Sprintf("%d differences", count)
}

// conclude sets the duration and the verdict. If some events were unreadable, the
// differences may be false, and the verdict is incomplete.
func (r *Report) conclude(took time.Duration, unreadable bool) {
	r.TookMs = took.Milliseconds()
	switch {
	case unreadable:
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

// findings is the report of a running audit. Concurrent comparisons may add to it.
type findings struct {
	mu      sync.Mutex
	report  Report
	recheck recheckKeys
}

// recheckKeys are keys that the next audit must compare again, because they differ and a
// dead letter explains it.
type recheckKeys struct {
	skus  map[string]bool
	holds map[string]*expectedHold
}

// newFindings returns an empty report. Its lists are empty and not nil, so that JSON has
// [] and not null.
func newFindings(pool string, full bool) *findings {
	return &findings{
		report: Report{
			Pool:        pool,
			Full:        full,
			StartedAt:   time.Now().UTC(),
			Differences: Findings{First: []Difference{}},
			Parked:      Findings{First: []Difference{}},
			Pending:     Findings{First: []Difference{}},
			Incomplete:  []string{},
		},
		recheck: recheckKeys{
			skus:  map[string]bool{},
			holds: map[string]*expectedHold{},
		},
	}
}

// addDifference adds a difference that nothing explains.
func (f *findings) addDifference(d Difference) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Differences.add(d)
}

// addParked adds a difference that a dead letter explains. The next audit compares its
// hold or SKU again.
func (f *findings) addParked(d divergence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Parked.add(d.difference)
	if d.hold != nil && len(f.recheck.holds) <= recheckMax {
		f.recheck.holds[d.hold.ID] = d.hold
	}
	if d.sku != "" {
		f.recheck.skus[d.sku] = true
	}
}

// addPending adds a counter that differs only until the next command records it.
func (f *findings) addPending(d Difference) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Pending.add(d)
}

// addIncomplete adds the reason why a store could not be compared.
func (f *findings) addIncomplete(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Incomplete = append(f.report.Incomplete, fmt.Sprintf(format, args...))
}

// count adds to the numbers of things compared.
func (f *findings) count(add func(*Compared)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	add(&f.report.Compared)
}
