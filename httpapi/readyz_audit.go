package httpapi

import (
	"context"
	"time"

	"github.com/stockstream/stockstream/audit"
)

// AuditReport is how the last audit ended, whichever process ran it. A fault that it found is told, and does not make
// commands unready.
type AuditReport struct {
	OK          bool               `json:"ok"`
	Outcome     string             `json:"outcome"` // clean, parked, incomplete or differs
	Seq         int64              `json:"seq"`     // what happened up to here was compared
	At          time.Time          `json:"at"`      // when it ended
	TookMs      int64              `json:"took_ms"`
	Full        bool               `json:"full"` // it began at zero
	Differences int                `json:"differences"`
	Parked      int                `json:"parked"`  // explained by dead letters
	Pending     int                `json:"pending"` // counters set by hand, which the next command will record
	First       []audit.Difference `json:"first,omitempty"`
	Incomplete  []string           `json:"incomplete,omitempty"` // what could not be compared, and why
}

// firstDifferences is how many of each sort /readyz?verbose shows; `stockstream audit` shows more.
const firstDifferences = 3

// lastAudit returns the report of the last audit, or nil where there was none.
func (a *api) lastAudit(ctx context.Context) (*AuditReport, error) {
	last, at, err := audit.Last(ctx, a.Postgres, a.Pool.Name())
	if err != nil || last == nil {
		return nil, err
	}
	report := &AuditReport{
		OK: last.OK, Outcome: string(last.Outcome), Seq: last.Seq, At: at.UTC(), TookMs: last.TookMs, Full: last.Full,
		Differences: last.Differences.Count, Parked: last.Parked.Count, Pending: last.Pending.Count, Incomplete: last.Incomplete,
	}
	for _, found := range []audit.Findings{last.Differences, last.Parked} {
		report.First = append(report.First, found.First[:min(firstDifferences, len(found.First))]...)
	}
	return report, nil
}
