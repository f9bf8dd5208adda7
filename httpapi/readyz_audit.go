package httpapi

import (
	"context"
	"time"

	"github.com/stockstream/stockstream/audit"
)

// AuditReport is the result of the last audit, whichever process ran it, with the field
// names of `stockstream audit -o json`. A difference that the audit found appears here,
// but does not make the process unready.
type AuditReport struct {
	OK          bool           `json:"ok"`
	Outcome     string         `json:"outcome"`     // clean, parked, incomplete or differs
	Seq         int64          `json:"seq"`         // the last seq that was compared
	Finished    time.Time      `json:"finished_at"` // by Postgres's clock
	TookMs      int64          `json:"took_ms"`
	Full        bool           `json:"full"` // the audit began at seq 0
	Differences audit.Findings `json:"differences"`
	Parked      audit.Findings `json:"parked"` // differences that dead letters explain
	// Pending lists the stock counters that were set by hand. The next command for the
	// SKU records the change.
	Pending    audit.Findings `json:"pending"`
	Incomplete []string       `json:"incomplete"` // which stores could not be compared, and why
}

// firstDifferences is how many differences of each kind /readyz?verbose shows;
// `stockstream audit` shows more.
const firstDifferences = 3

// lastAudit returns the report of the last audit, or nil if there was none.
func (a *api) lastAudit(ctx context.Context) (*AuditReport, error) {
	last, at, err := audit.Last(ctx, a.Postgres, a.Pool.Name())
	if err != nil || last == nil {
		return nil, err
	}
	return &AuditReport{
		OK:          last.OK,
		Outcome:     string(last.Verdict),
		Seq:         last.Seq,
		Finished:    at.UTC(),
		TookMs:      last.TookMs,
		Full:        last.Full,
		Differences: firstOf(last.Differences),
		Parked:      firstOf(last.Parked),
		Pending:     firstOf(last.Pending),
		Incomplete:  last.Incomplete,
	}, nil
}

// firstOf returns the findings with at most firstDifferences of their list.
func firstOf(found audit.Findings) audit.Findings {
	found.First = found.First[:min(firstDifferences, len(found.First))]
	return found
}
