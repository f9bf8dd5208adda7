package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// Seller is a process that takes commands for a pool.
type Seller struct {
	Process    string    // host name, process id, and a random number
	Server     string    // master_replid of the Redis that the process decides in
	ReportedAt time.Time // by Postgres's clock
}

// ErrOtherSeller is returned by RaiseEpoch if another process sells on another Redis.
var ErrOtherSeller = errors.New("another process sells on another Redis")

// ReportSeller records that a process sells on a server, and returns the pool's epoch, or
// 0 if Postgres has no record of the pool.
//
// The process may sell only if that is the epoch of its log. ReportSeller and RaiseEpoch
// both lock the pool's record. So either RaiseEpoch finds the seller, or the seller finds
// the raised epoch.
func ReportSeller(
	ctx context.Context, conn *pgx.Conn, pool, process, server string,
) (epoch int64, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := limitWaits(ctx, tx); err != nil {
			return err
		}
		const report = `
			INSERT INTO sellers (pool, process, server, reported_at) VALUES ($1, $2, $3, clock_timestamp())
			ON CONFLICT (pool, process) DO UPDATE SET server = $3, reported_at = clock_timestamp()`
		if _, err := tx.Exec(ctx, report, pool, process, server); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT epoch FROM pools WHERE pool = $1 FOR SHARE`, pool).Scan(&epoch)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("report that this process sells: %w", err)
	}
	return epoch, nil
}

// WithdrawSeller removes the report of a process that no longer sells.
func WithdrawSeller(ctx context.Context, conn *pgx.Conn, pool, process string) error {
	const remove = `DELETE FROM sellers WHERE pool = $1 AND process = $2`
	if _, err := conn.Exec(ctx, remove, pool, process); err != nil {
		return fmt.Errorf("withdraw the report that this process sells: %w", err)
	}
	return nil
}

// ReadSellers returns the last reports of a pool's processes, also of processes that died
// since.
func ReadSellers(ctx context.Context, db postgres.Querier, pool string) ([]Seller, error) {
	const query = `SELECT process, server, reported_at FROM sellers WHERE pool = $1 ORDER BY process`
	rows, err := db.Query(ctx, query, pool)
	if err != nil {
		return nil, fmt.Errorf("read the sellers of pool %s: %w", pool, err)
	}
	sellers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Seller])
	if err != nil {
		return nil, fmt.Errorf("read the sellers of pool %s: %w", pool, err)
	}
	return sellers, nil
}

// removeSilentSellers removes the reports of sellers that are known to be silent, unless
// they reported again. It fails with ErrOtherSeller if a report of another server is
// left.
func removeSilentSellers(ctx context.Context, tx pgx.Tx, pool, server string, silent []Seller) error {
	const remove = `DELETE FROM sellers WHERE pool = $1 AND process = $2 AND reported_at = $3`
	for _, s := range silent {
		if _, err := tx.Exec(ctx, remove, pool, s.Process, s.ReportedAt); err != nil {
			return err
		}
	}
	var others bool
	const look = `SELECT EXISTS (SELECT FROM sellers WHERE pool = $1 AND server <> $2)`
	if err := tx.QueryRow(ctx, look, pool, server).Scan(&others); err != nil {
		return err
	}
	if others {
		return ErrOtherSeller
	}
	return nil
}
