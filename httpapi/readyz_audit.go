package httpapi

import (
	"context"
	"time"

	"github.com/stockstream/stockstream/audit"
)

// AuditReport is how the last audit ended, in the words of `stockstream audit -o json`, whichever process ran it. A fault that it found is told, and does not make
// commands unready.
type AuditReport struct {
	OK          bool           `json:"ok"`
	Outcome     string         `json:"outcome"`     // clean, parked, incomplete or differs
	Seq         int64          `json:"seq"`         // what happened up to here was compared
	Finished    time.Time      `json:"finished_at"` // by Postgres's clock
	TookMs      int64          `json:"took_ms"`
	Full        bool           `json:"full"` // it began at zero
	Differences audit.Findings `json:"differences"`
	Parked      audit.Findings `json:"parked"`     // explained by dead letters
	Pending     audit.Findings `json:"pending"`    // counters set by hand, which the next command will record
	Incomplete  []string       `json:"incomplete"` // what could not be compared, and why
}

// firstDifferences is how many of each sort /readyz?verbose shows; `stockstream audit` shows more.
const firstDifferences = 3

// lastAudit returns the report of the last audit, or nil where there was none.
func (a *api) lastAudit(ctx context.Context) (*AuditReport, error) {
	last, at, err := audit.Last(ctx, a.Postgres, a.Pool.Name())
	if err != nil || last == nil {
		return nil, err
	}
	return &AuditReport{
		OK: last.OK, Outcome: string(last.Verdict), Seq: last.Seq, Finished: at.UTC(), TookMs: last.TookMs, Full: last.Full,
		Differences: firstOf(last.Differences), Parked: firstOf(last.Parked), Pending: firstOf(last.Pending), Incomplete: last.Incomplete,
	}, nil
}

func firstOf(found audit.Findings) audit.Findings {
	found.First = found.First[:min(firstDifferences, len(found.First))]
	return found
}
