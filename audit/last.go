package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Reader returns the position of a pool's audits as a reader of the journal: the verified
// seq. The next audit needs the events after it, so they must not be detached. audited is
// false if the pool was never audited.
func Reader(
	ctx context.Context, db postgres.Querier, pool string,
) (reader journal.ReaderPosition, audited bool, err error) {
	reader = journal.ReaderPosition{Name: "audit", Pool: pool}
	err = db.QueryRow(ctx, `SELECT verified_seq FROM audits WHERE pool = $1`, pool).Scan(&reader.Seq)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return reader, false, nil
	case err != nil:
		return reader, false, fmt.Errorf("read the verified seq: %w", err)
	}
	return reader, true, nil
}

// Last returns the report of a pool's last audit, and the time at which it ended, by
// Postgres's clock. The report is nil if the pool was never audited.
func Last(ctx context.Context, db postgres.Querier, pool string) (report *Report, at time.Time, err error) {
	var raw []byte
	err = db.QueryRow(ctx, `SELECT report, last_at FROM audits WHERE pool = $1`, pool).Scan(&raw, &at)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, at, nil
	case err != nil:
		return nil, at, fmt.Errorf("read the last audit: %w", err)
	}
	report = new(Report)
	if err := json.Unmarshal(raw, report); err != nil {
		return nil, at, fmt.Errorf("decode the last audit's report: %w", err)
	}
	return report, at, nil
}
