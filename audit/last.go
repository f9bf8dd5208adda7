package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// saveReport keeps the report. The bookmark stays where it is unless there is a new one.
func saveReport(ctx context.Context, tx pgx.Tx, pool string, p *position, report *Report) error {
	raw, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	var seq, live, floor *int64
	var streamID, skuCursor, holdCursor *string
	var verifiedAt *time.Time
	if p != nil {
		seq, live, floor, streamID, skuCursor, holdCursor, verifiedAt = &p.seq, &p.liveHolds, &p.hourFloor, &p.streamID, &p.skuCursor, &p.holdCursor, &report.StartedAt
	}
	const query = `
		INSERT INTO audits AS a (pool, verified_seq, live_holds, stream_id, sku_cursor, hold_cursor, hour_floor, verified_at, last_at, report)
		VALUES ($1, coalesce($2, 0), coalesce($3, 0), coalesce($4, ''), coalesce($5, ''), coalesce($6, ''), coalesce($9, 0), $7, now(), $8)
		ON CONFLICT (pool) DO UPDATE SET
		    verified_seq = coalesce($2, a.verified_seq), live_holds = coalesce($3, a.live_holds), stream_id = coalesce($4, a.stream_id),
		    sku_cursor = coalesce($5, a.sku_cursor), hold_cursor = coalesce($6, a.hold_cursor), hour_floor = coalesce($9, a.hour_floor),
		    verified_at = coalesce($7, a.verified_at), last_at = now(), report = $8`
	if _, err := tx.Exec(ctx, query, pool, seq, live, streamID, skuCursor, holdCursor, verifiedAt, raw, floor); err != nil {
		return fmt.Errorf("save the report: %w", err)
	}
	return nil
}

// Reader returns the audit of a pool as a reader of the journal, which has come to the verified seq; audited is false for
// a pool that was never audited.
func Reader(ctx context.Context, db events.Querier, pool string) (reader events.Reader, audited bool, err error) {
	reader = events.Reader{Name: "audit", Pool: pool}
	err = db.QueryRow(ctx, `SELECT verified_seq FROM audits WHERE pool = $1`, pool).Scan(&reader.Seq)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return reader, false, nil
	case err != nil:
		return reader, false, fmt.Errorf("read the verified seq: %w", err)
	}
	return reader, true, nil
}

// Last returns the report of a pool's last audit, and when it ended; nil where there was none.
func Last(ctx context.Context, db events.Querier, pool string) (report *Report, at time.Time, err error) {
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
		return nil, at, fmt.Errorf("read the last audit: %w", err)
	}
	return report, at, nil
}
